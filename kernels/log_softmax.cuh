// Log-softmax of rows, or softmax, and its gradient.
//
// Computes: log_softmax: output[k] = x_k - lse, or exp(x_k - lse).
//     log_softmax_backward: gradient[k] = g_k - p_k sum_j g_j, with p from log-probabilities, or from
//     logits and what the forward pass saved; of a class that it kept apart,
//     gradient[y] = (1 - p_y) g_y - p_y sum_{j != y} g_j, where nothing cancels as p_y -> 1.
// Shapes: all matrices [rows, classes] with any row strides and any base alignment.
// Traffic: with b bytes an element and the row in shared memory, forward b * classes read and as many
//     written; backward 2 b * classes read, b * classes written. What does not fit shared memory is
//     read a second time.
// Parallelism: one block a row. Forward as in strategy_block.cuh. Backward cuts rows as the upstream
//     gradient's are cut: the other matrices are accessed in packs where they are cut alike.
// Invariants: NaN and +inf in a row make all of its outputs NaN; -inf gives -inf, or 0. log p keeps its
//     digits as p -> 1, as long as they can be stored.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "dtype.cuh"
#include "reduce.cuh"
#include "row_loss.cuh"
#include "softmax_state.cuh"
#include "strategy_block.cuh"
#include "terms.cuh"
#include "vector.cuh"

namespace xent {

// Logits as they are.
__device__ __forceinline__ XentTransform identity() { return {1.0f, kLog2E, 0.0f, 0.0f, 1.0f}; }

// One row of the forward pass, by one block, all of whose threads call it.
template <typename T>
struct LogSoftmaxRow {
    using Row = BlockRow<T, NoTerms>;

    const XentLogSoftmax &p;
    uint64_t index;
    BlockMergeStorage &storage;
    const Row row;

    __device__ __forceinline__ LogSoftmaxRow(const XentLogSoftmax &argument, uint64_t row_index,
                                             const T *logits, uint4 *shared,
                                             BlockMergeStorage &merge_storage)
        : p(argument),
          index(row_index),
          storage(merge_storage),
          row(logits, RowLayout<T>(logits, argument.classes), NoTerms(), identity(), kNoPosition,
              shared, argument.cached_packs) {}

    template <class Shift>
    __device__ __forceinline__ RowSoftmax reduce_again(float max, uint32_t apart) const {
        // All warps have read the storage; it is written again.
        __syncthreads();
        typename Row::template State<Shift> again(identity(), max);
        row.template accumulate<Pass::kLater>(again, apart);
        again = block_merge(again, storage, identity());
        RowSoftmax softmax(again, identity());
        if (apart != kNoPosition) softmax.add_target(max, again.shift);
        return softmax;
    }

    template <class Shift>
    __device__ __forceinline__ void write_probabilities(T *output, const RowSoftmax &softmax) const {
        row.write(output, Probabilities(softmax), Shift(identity(), softmax.max), p.classes);
    }

    __device__ __forceinline__ void write_log_probabilities(T *output, const RowSoftmax &softmax,
                                                            uint32_t apart) const {
        // They need no exponential: any shift serves.
        row.write(output, LogProbabilities(softmax), FusedShift(identity(), 0.0f), p.classes);
        if (apart != kNoPosition) {
            // Whoever has written this element like the others; below the first thread mends it.
            __syncthreads();
            if (threadIdx.x == 0) store_one(output + apart, -nll_term(softmax, softmax.max, 1.0f));
        }
    }

    __device__ __forceinline__ void compute() const {
        typename Row::template State<FusedShift> mine(identity(), -INFINITY);
        row.template accumulate<Pass::kFirst>(mine);
        const auto merged = block_merge(mine, storage, identity());
        RowSoftmax softmax(merged, identity());
        const bool exact = needs_exact_shift(softmax, merged.shift, 0.0f);
        if (exact) softmax = reduce_again<ExactShift>(softmax.max, kNoPosition);
        uint32_t apart = kNoPosition;
        if ((p.what == XENT_LOG_PROBABILITIES || p.save != nullptr) && is_confident(softmax)) {
            // All warps have read the storage; it is written again.
            __syncthreads();
            apart = block_min(row.lowest_of(mine, softmax.max), storage);
            softmax = exact ? reduce_again<ExactShift>(softmax.max, apart)
                            : reduce_again<FusedShift>(softmax.max, apart);
        }
        if (threadIdx.x == 0) {
            if (p.row_lse != nullptr) p.row_lse[index] = log_sum_exp(softmax);
            if (p.save != nullptr) {
                const uint32_t kept = apart == kNoPosition ? XENT_NOTHING_APART : apart;
                p.save[index] = {softmax.max, softmax.others, softmax.mass,
                                 2 * kept + (exact ? 1 : 0)};
            }
        }
        T *output = static_cast<T *>(p.output) + index * p.output_row_stride;
        if (p.what == XENT_LOG_PROBABILITIES) {
            write_log_probabilities(output, softmax, apart);
        } else if (exact) {
            write_probabilities<ExactShift>(output, softmax);
        } else {
            write_probabilities<FusedShift>(output, softmax);
        }
    }
};

template <typename T>
__device__ __forceinline__ void log_softmax_block(const XentLogSoftmax &p) {
    extern __shared__ uint4 shared[];
    __shared__ BlockMergeStorage storage;

    for (uint64_t index = blockIdx.x; index < p.rows; index += gridDim.x) {
        const T *logits = static_cast<const T *>(p.logits) + index * p.logits_row_stride;
        LogSoftmaxRow<T>(p, index, logits, shared, storage).compute();
        // All warps have read the merge's slots and the cache; the next row writes both.
        __syncthreads();
    }
}

// One row of the backward pass. A pack of the upstream gradient belongs to one thread in both passes.
template <typename T>
struct LogSoftmaxBackwardRow {
    static constexpr uint32_t kSize = kPackSize<T>;

    const T *values;
    const T *upstream;
    T *gradient;
    RowLayout<T> layout;  // of the upstream gradient
    uint4 *cache;
    uint32_t cached;

    // Without the element at `apart`, if any.
    __device__ __forceinline__ float sum_of_upstream(uint32_t apart) const {
        float sum = 0.0f;
        for (uint32_t index = threadIdx.x; index < layout.packs; index += blockDim.x) {
            const uint4 bits = layout.body(upstream)[index];
            if (index < cached) cache[index] = bits;
            float g[kSize];
            unpack<T>(bits, g);
            const uint32_t left_out = apart - layout.start_of(index);
            if (left_out < kSize) {
#pragma unroll
                for (uint32_t i = 0; i < kSize; ++i) g[i] = i == left_out ? 0.0f : g[i];
            }
            sum = add_rn(sum, sum_of(g));
        }
        if (threadIdx.x < layout.edges() && layout.edge(threadIdx.x) != apart) {
            sum = add_rn(sum, load_one(upstream + layout.edge(threadIdx.x)));
        }
        return sum;
    }

    // Last pack first, so that what the L2 cache still holds comes first.
    template <class Shift>
    __device__ __forceinline__ void write(float probability_weight, const Shift &shift) const {
        const bool values_aligned = same_alignment<T>(values, upstream);
        const bool gradient_aligned = same_alignment<T>(gradient, upstream);
        const uint32_t rounds = (layout.packs + blockDim.x - 1) / blockDim.x;
        for (uint32_t round = rounds; round-- > 0;) {
            const uint32_t index = round * blockDim.x + threadIdx.x;
            if (index < layout.packs) {
                const uint32_t start = layout.start_of(index);
                float x[kSize], g[kSize];
                load_run(values + start, values_aligned, x);
                unpack<T>(index < cached ? cache[index] : layout.body(upstream)[index], g);
#pragma unroll
                for (uint32_t i = 0; i < kSize; ++i) {
                    x[i] = fma_rn(exp2_approx(shift.exponent(x[i])), probability_weight, g[i]);
                }
                store_run(gradient + start, gradient_aligned, x);
            }
        }
        if (threadIdx.x < layout.edges()) {
            const uint32_t position = layout.edge(threadIdx.x);
            const float p = exp2_approx(shift.exponent(load_one(values + position)));
            store_one(gradient + position,
                      fma_rn(p, probability_weight, load_one(upstream + position)));
        }
    }

    template <class Shift>
    __device__ __forceinline__ void finish(const XentSavedRow &saved, const Shift &shift,
                                           uint32_t apart, float g_apart, float g_others) const {
        const float e_apart =
            apart == kNoPosition ? 0.0f : exp2_approx(shift.exponent(saved.max));
        const float sum = add_rn(saved.others, e_apart);
        write(div_rn(-add_rn(g_others, g_apart), sum), shift);
        if (apart != kNoPosition) {
            // Whoever has written this element like the others; below the first thread mends it.
            __syncthreads();
            if (threadIdx.x == 0) {
                store_one(gradient + apart, div_rn(saved.others, sum) * g_apart -
                                                div_rn(e_apart, sum) * g_others);
            }
        }
    }
};

template <typename T>
__device__ __forceinline__ void log_softmax_backward_block(const XentLogSoftmaxBackward &p) {
    extern __shared__ uint4 shared[];
    __shared__ BlockMergeStorage storage;

    for (uint64_t index = blockIdx.x; index < p.rows; index += gridDim.x) {
        const T *upstream = static_cast<const T *>(p.upstream) + index * p.upstream_row_stride;
        const LogSoftmaxBackwardRow<T> row{
            static_cast<const T *>(p.values) + index * p.values_row_stride,
            upstream,
            static_cast<T *>(p.gradient) + index * p.gradient_row_stride,
            RowLayout<T>(upstream, p.classes),
            shared,
            p.cached_packs};
        // Log-probabilities are logits with a maximum of 0 and a sum of 1.
        const XentSavedRow saved =
            p.saved != nullptr
                ? p.saved[index]
                : XentSavedRow{0.0f, 1.0f, 0.0f, 2 * XENT_NOTHING_APART};
        // Compared with the classes, so that nothing that was saved can be an address elsewhere.
        const uint32_t kept = saved.apart_and_exact / 2;
        const uint32_t apart = kept < p.classes ? kept : kNoPosition;
        const float g_apart = apart == kNoPosition ? 0.0f : load_one(upstream + apart);
        const float g_others = block_sum(row.sum_of_upstream(apart), storage);
        if (saved.apart_and_exact % 2 != 0) {
            row.finish(saved, ExactShift(identity(), saved.max), apart, g_apart, g_others);
        } else {
            row.finish(saved, FusedShift(identity(), saved.max), apart, g_apart, g_others);
        }
        // All warps have read the sum's slots; the next row writes them.
        __syncthreads();
    }
}

}  // namespace xent
