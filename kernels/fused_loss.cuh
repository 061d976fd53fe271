// The loss and the gradient of rows, together or apart.
//
// Computes: for each row of XentFused, its loss, its lse and its gradient (row_loss.cuh).
// Shapes: logits, gradient and probabilities [rows, classes], any row strides and base alignment.
// Traffic: strategy_block.cuh's; the forward pass alone writes nothing, the backward pass reads each
//     logit once, since the softmax was saved. An ignored row is written and never read.
// Parallelism: one block a row.
// Invariants: a pass alone gives the same bits as both together. In place, all threads have read the
//     target's logit before any store.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "ordered_sum.cuh"
#include "reduce.cuh"
#include "row_loss.cuh"
#include "softmax_state.cuh"
#include "strategy_block.cuh"
#include "targets.cuh"
#include "terms.cuh"
#include "vector.cuh"

namespace xent {

// What is said of a row beside its gradient. Known to the block's first thread alone.
struct RowReport {
    float loss;   // its terms, not divided
    float share;  // its part of the scalar loss
    float lse;
    int64_t argmax;
    bool correct;

    // Called by the first warp.
    __device__ __forceinline__ void write(const XentFused &p, uint64_t row) const {
        if (threadIdx.x == 0) {
            if (p.row_losses != nullptr) p.row_losses[row] = loss;
            if (p.row_lse != nullptr) p.row_lse[row] = lse;
            if (p.row_argmax != nullptr) p.row_argmax[row] = argmax;
            if (p.sums.loss != nullptr) p.sums.row_shares[row] = share;
            if (p.sums.correct != nullptr && correct) count_correct(p.sums);
        }
        if (p.sums.loss != nullptr || p.sums.correct != nullptr) count_row(p.sums, row);
    }
};

template <typename T>
__device__ __forceinline__ T *gradient_row(const XentFused &p, uint64_t row) {
    return static_cast<T *>(p.gradient) + row * p.gradient_row_stride;
}

__device__ __forceinline__ XentDivided divided(const XentFused &p) {
    return p.device_divided != nullptr ? *p.device_divided : p.divided;
}

// `terms` of one row, whose `target` was found to be a class.
template <class Terms>
__device__ __forceinline__ RowWeights row_weights(const XentFused &p, uint32_t target,
                                                  const XentTerms &terms) {
    const float u = p.nll_weights == nullptr ? 1.0f : p.nll_weights[target];
    // Plain kernels have no weights there.
    const bool ones = Terms::kWeights == Weights::kOnes || p.smoothing_weights == nullptr;
    return RowWeights(terms, u, ones ? 1.0f : p.smoothing_weights[target]);
}

// A row that is ignored, or whose target names no class.
template <typename T>
__device__ __forceinline__ void write_nothing(const XentFused &p, uint64_t row,
                                              const Target &target) {
    const bool bad = target.kind == TargetKind::kBad;
    // The forward pass has recorded it.
    if (bad && threadIdx.x == 0 && p.saved == nullptr) {
        record_bad_target(p.sums.workspace->status, row, target.value, p.classes);
    }
    if (threadIdx.x < kWarpSize) {
        const float result = bad ? NAN : 0.0f;
        const float nothing = share_of_nothing(divided(p).inverse_divisors.nll);
        RowReport{result, result + nothing, result, -1, false}.write(p, row);
    }
    if (p.gradient != nullptr) write_zeros(gradient_row<T>(p, row), p.classes);
}

// One row by one block, all of whose threads call it.
template <typename T, class Terms>
struct FusedRow {
    using Row = BlockRow<T, Terms>;

    const XentFused &p;
    uint64_t index;
    BlockMergeStorage &storage;
    const Row row;
    float target_value;
    bool exact;          // whether exponentials are formed with the exact shift
    uint32_t argmax;     // where asked for
    uint32_t apart;      // the class that a row without a target keeps apart, or kNoPosition
    float apart_weight;  // what multiplies its -log p

    __device__ __forceinline__ FusedRow(const XentFused &argument, uint64_t row_index,
                                        const Row &block_row, BlockMergeStorage &merge_storage)
        : p(argument),
          index(row_index),
          storage(merge_storage),
          row(block_row),
          target_value(Terms::kHasTarget ? row.target_value() : -INFINITY),
          exact(false),
          argmax(kNoPosition),
          apart(kNoPosition),
          apart_weight(0.0f) {}

    template <class Shift, Weights kWeights>
    __device__ __forceinline__ RowSoftmax softmax_of(
        const SoftmaxState<Shift, kWeights> &merged) const {
        RowSoftmax softmax(merged, p.transform);
        if (Terms::kHasTarget || apart != kNoPosition) {
            softmax.add_target(target_value, merged.shift);
        }
        return softmax;
    }

    template <class State>
    __device__ __forceinline__ State merge(const State &mine) const {
        State merged = block_merge(mine, storage, p.transform);
        if (Terms::kWeights == Weights::kOnes) merged.mass = float(p.classes - 1);
        return merged;
    }

    // From the logits.
    __device__ __forceinline__ RowSoftmax reduce() {
        typename Row::template State<FusedShift> mine(p.transform, -INFINITY);
        row.template accumulate<Pass::kFirst>(mine);
        auto merged = merge(mine);
        if (Terms::kHasTarget) merged.raise(target_value, kNoPlace);
        RowSoftmax softmax = softmax_of(merged);
        if (p.row_argmax != nullptr || p.sums.correct != nullptr) find_argmax(mine, softmax);
        const float smoothing = Terms::kHasTarget ? p.term_weights.smoothing : 1.0f;
        exact = needs_exact_shift(softmax, merged.shift, smoothing);
        if (exact) softmax = reduce_again<ExactShift>(softmax.max);
        if constexpr (!Terms::kHasTarget) {
            if (is_confident(softmax)) softmax = keep_apart(mine, softmax);
        }
        return softmax;
    }

    // Without the class that is kept apart, if any.
    template <class Shift>
    __device__ __forceinline__ RowSoftmax reduce_again(float max) const {
        // All warps have read the storage; it is written again.
        __syncthreads();
        typename Row::template State<Shift> again(p.transform, max);
        row.template accumulate<Pass::kLater>(again, apart);
        return softmax_of(merge(again));
    }

    // Treats the class of the largest logit as a target is treated.
    template <class State>
    __device__ __forceinline__ RowSoftmax keep_apart(const State &mine, const RowSoftmax &softmax) {
        // All warps have read the storage; it is written again.
        __syncthreads();
        apart = block_min(row.lowest_of(mine, softmax.max), storage);
        apart_weight = row.terms.at(apart);
        target_value = softmax.max;
        return exact ? reduce_again<ExactShift>(softmax.max) : reduce_again<FusedShift>(softmax.max);
    }

    template <class State>
    __device__ __forceinline__ void find_argmax(const State &mine, const RowSoftmax &softmax) {
        uint32_t lowest = row.lowest_of(mine, softmax.max);
        if (Terms::kHasTarget && target_value == softmax.max) {
            lowest = min(lowest, row.target_position);
        }
        argmax = block_min(lowest, storage);
        // -inf raises no maximum: in a row of nothing else, the first is as large as any.
        if (softmax.max == -INFINITY) argmax = 0;
        // NaN is the largest, as in PyTorch; no maximum shows it.
        if (softmax.sum != softmax.sum) {
            // The first warp has read the slots; they are written again.
            __syncthreads();
            const uint32_t nan = block_min(row.lowest_nan(p.classes), storage);
            if (nan != kNoPosition) argmax = nan;
        }
    }

    __device__ __forceinline__ XentSavedRow to_save(const RowSoftmax &softmax) const {
        const uint32_t kept = apart == kNoPosition ? XENT_NOTHING_APART : apart;
        return {softmax.max, softmax.others, softmax.mass, 2 * kept + (exact ? 1 : 0)};
    }

    // From what the forward pass saved.
    __device__ __forceinline__ RowSoftmax restore() {
        const XentSavedRow saved = p.saved[index];
        exact = saved.apart_and_exact % 2 != 0;
        if constexpr (!Terms::kHasTarget) {
            // Compared with the classes, so that nothing that was saved can be an address elsewhere.
            if (saved.apart_and_exact / 2 < p.classes) {
                apart = saved.apart_and_exact / 2;
                apart_weight = row.terms.at(apart);
                target_value = saved.max;
            }
        }
        // All threads have read the target's logit; in place, its owner overwrites it below.
        __syncthreads();
        if (exact) return restored(saved, ExactShift(p.transform, saved.max));
        return restored(saved, FusedShift(p.transform, saved.max));
    }

    template <class Shift>
    __device__ __forceinline__ RowSoftmax restored(const XentSavedRow &saved,
                                                   const Shift &shift) const {
        RowSoftmax softmax(saved, shift, p.transform);
        if (Terms::kHasTarget || apart != kNoPosition) softmax.add_target(target_value, shift);
        return softmax;
    }

    // What multiplies the row's terms, before they are divided and after.
    __device__ __forceinline__ RowWeights weights() const {
        if constexpr (Terms::kHasTarget) {
            return row_weights<Terms>(p, row.target_position, p.term_weights);
        } else {
            return RowWeights(1.0f, apart_weight, p.term_weights.z_loss);
        }
    }
    __device__ __forceinline__ RowWeights divided_weights() const {
        const XentDivided by = divided(p);
        if constexpr (Terms::kHasTarget) {
            return row_weights<Terms>(p, row.target_position, by.term_weights);
        } else {
            return RowWeights(by.inverse_divisors.nll, apart_weight, by.term_weights.z_loss);
        }
    }

    // Called by the first thread.
    __device__ __forceinline__ RowReport report(const RowSoftmax &softmax) const {
        const XentTerms inverse = divided(p).inverse_divisors;
        const float loss = row_loss(softmax, target_value, weights());
        // One divisor for all terms is the rule: then the row's logarithms are not formed again,
        // unless the loss overflowed, which its share need not.
        const bool alike = inverse.nll == inverse.smoothing && inverse.nll == inverse.z_loss &&
                           fabsf(loss) <= FLT_MAX;
        const float share = alike ? weighted(inverse.nll, loss)
                                  : row_loss(softmax, target_value, divided_weights());
        return {loss, share + share_of_nothing(inverse.nll), log_sum_exp(softmax), int64_t(argmax),
                Terms::kHasTarget && argmax == row.target_position};
    }

    __device__ __forceinline__ void compute() {
        const RowSoftmax softmax = p.saved == nullptr ? reduce() : restore();
        // Before the gradient: its fence would wait for all stores of this thread.
        if (p.saved == nullptr && threadIdx.x < kWarpSize) {
            RowReport said{};
            if (threadIdx.x == 0) {
                said = report(softmax);
                if (p.save != nullptr) {
                    p.save[index] = to_save(softmax);
                }
            }
            said.write(p, index);
        }
        if (p.gradient == nullptr) return;
        RowGradient coefficients(softmax, divided_weights());
        const float upstream = p.upstream == nullptr ? 1.0f : p.upstream[index * p.upstream_stride];
        coefficients.scale_by(upstream * p.transform.slope);
        T *gradient = gradient_row<T>(p, index);
        if (exact) {
            row.write(gradient, coefficients, ExactShift(p.transform, softmax.max), p.classes);
        } else {
            row.write(gradient, coefficients, FusedShift(p.transform, softmax.max), p.classes);
        }
        if (!Terms::kHasTarget && apart != kNoPosition) {
            // Whoever has written this element like the others; below the first thread mends it.
            __syncthreads();
            if (threadIdx.x == 0) {
                const float slope =
                    row.transform.capped() ? row.transform.cap_slope(target_value) : 1.0f;
                store_one(gradient + apart, mul_rn(coefficients.target, slope));
            }
        }
    }
};

template <typename T, class Terms>
__device__ __forceinline__ void fused_block(const XentFused &p) {
    extern __shared__ uint4 shared[];
    __shared__ BlockMergeStorage storage;

    for (uint64_t index = blockIdx.x; index < p.sums.rows; index += gridDim.x) {
        Target target{TargetKind::kClass, 0};
        if constexpr (Terms::kHasTarget) target = load_target(p.targets, index, p.classes);
        if (target.kind != TargetKind::kClass) {
            write_nothing<T>(p, index, target);
            continue;
        }
        const T *logits = static_cast<const T *>(p.logits) + index * p.logits_row_stride;
        const RowLayout<T> layout(logits, p.classes);
        const uint32_t position = Terms::kHasTarget ? uint32_t(target.value) : kNoPosition;
        const BlockRow<T, Terms> row(logits, layout, Terms(p, index, layout), p.transform, position,
                                     shared, p.cached_packs);
        FusedRow<T, Terms>(p, index, row, storage).compute();
        // All warps have read the merge's slots and the cache; the next row writes both.
        __syncthreads();
    }
}

}  // namespace xent
