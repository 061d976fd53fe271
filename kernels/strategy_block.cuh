// Fused loss and gradient, one block a row, any number of classes.
//
// Computes: for each row of XentFused, its loss, its lse and its gradient (row_loss.cuh).
// Shapes: logits and gradient [rows, classes] with any row strides and any base alignment.
// Traffic: with b bytes a logit and the row in shared memory, b * classes read and as many
//     written; what does not fit shared memory is read a second time, in the opposite order, so
//     that what the L2 cache still holds comes first. An ignored row is written and never read.
// Parallelism: pack i of a row belongs to thread i % blockDim.x in both passes, so that a thread
//     reads back from shared memory only what it put there. What cannot be handled in packs, the
//     row's edges and the pack around the target, goes one element a lane to the first warp, which
//     keeps it in registers between the passes: no pack is ever compared with the target's place
//     element by element.
// Invariants: 16-byte access to logits wherever the row allows, and to the gradient if its row is
//     cut as the logits row is, else element by element. In place is safe: a thread overwrites only
//     what it alone has left to read, and all have read the target's logit before the merge.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "dtype.cuh"
#include "ordered_sum.cuh"
#include "reduce.cuh"
#include "row_loss.cuh"
#include "softmax_state.cuh"
#include "targets.cuh"
#include "vector.cuh"

namespace xent {

// Packs that a thread has in flight at once, to cover the latency of memory; one where it is cold.
template <class Shift>
constexpr uint32_t kPacksInFlight = 4;
template <>
constexpr uint32_t kPacksInFlight<ExactShift> = 1;

// Where a pass finds the packs that shared memory has room for.
enum class Pass { kFirst, kLater };

constexpr uint32_t kNoPosition = UINT32_MAX;

template <typename T>
struct BlockRow {
    static constexpr uint32_t kSize = kPackSize<T>;
    // Two edges and a pack: every single element has a lane of the first warp.
    static_assert(3 * kSize - 2 <= kWarpSize, "single elements need a lane each");

    const T *logits;
    T *gradient;
    RowLayout<T> layout;
    uint4 *cache;
    uint32_t cached;           // packs [0, cached) of the body are kept in `cache`
    uint32_t target_position;
    uint32_t target_pack;      // or kNoPack
    uint32_t single_position;  // this thread's single element, or kNoPosition
    float single;

    __device__ __forceinline__ BlockRow(const T *logits_row, T *gradient_row, uint32_t classes,
                                        uint32_t target, uint4 *shared, uint32_t cache_packs)
        : logits(logits_row),
          gradient(gradient_row),
          layout(logits_row, classes),
          cache(shared),
          cached(cache_packs),
          target_position(target),
          target_pack(layout.pack_of(target)),
          single_position(kNoPosition),
          single(0.0f) {
        const uint32_t beyond_edges = threadIdx.x - layout.edges();  // wraps for an edge
        if (threadIdx.x < layout.edges()) {
            single_position = layout.edge(threadIdx.x);
        } else if (target_pack != kNoPack && beyond_edges < kSize) {
            single_position = layout.start_of(target_pack) + beyond_edges;
        }
        if (single_position != kNoPosition) single = load_one(logits + single_position);
    }

    // Whether there is such a pack, and it is not the one that is handled element by element.
    __device__ __forceinline__ bool in_packs(uint32_t index) const {
        return index < layout.packs && index != target_pack;
    }

    template <Pass pass>
    __device__ __forceinline__ uint4 fetch(uint32_t index) const {
        const uint4 *body = layout.body(logits);
        return pass == Pass::kLater && index < cached ? cache[index] : body[index];
    }

    // Takes every element of this thread but the target into `state`, first pack first.
    template <Pass pass, class Shift>
    __device__ __forceinline__ void accumulate(SoftmaxState<Shift> &state) const {
        constexpr uint32_t kBatch = kPacksInFlight<Shift>;
        for (uint32_t start = threadIdx.x; start < layout.packs; start += kBatch * blockDim.x) {
            uint4 batch[kBatch];
#pragma unroll
            for (uint32_t i = 0; i < kBatch; ++i) {
                const uint32_t index = start + i * blockDim.x;
                if (in_packs(index)) batch[i] = fetch<pass>(index);
            }
#pragma unroll
            for (uint32_t i = 0; i < kBatch; ++i) {
                const uint32_t index = start + i * blockDim.x;
                if (in_packs(index)) {
                    if (pass == Pass::kFirst && index < cached) cache[index] = batch[i];
                    float x[kSize];
                    unpack<T>(batch[i], x);
                    state.add(x);
                }
            }
        }
        if (single_position != kNoPosition && single_position != target_position) {
            const float one[1] = {single};
            state.add(one);
        }
    }

    // Writes this thread's gradients in packs, last pack first.
    template <class Shift>
    __device__ __forceinline__ void write_packs(const RowGradient &coefficients,
                                                const Shift &shift) const {
        constexpr uint32_t kBatch = kPacksInFlight<Shift>;
        const uint32_t stride = kBatch * blockDim.x;
        const uint32_t rounds = (layout.packs + stride - 1) / stride;
        for (uint32_t round = rounds; round-- > 0;) {
            const uint32_t start = round * stride + threadIdx.x;
            uint4 batch[kBatch];
#pragma unroll
            for (uint32_t i = kBatch; i-- > 0;) {
                const uint32_t index = start + i * blockDim.x;
                if (in_packs(index)) batch[i] = fetch<Pass::kLater>(index);
            }
#pragma unroll
            for (uint32_t i = kBatch; i-- > 0;) {
                const uint32_t index = start + i * blockDim.x;
                if (in_packs(index)) {
                    float values[kSize];
                    unpack<T>(batch[i], values);
#pragma unroll
                    for (uint32_t j = 0; j < kSize; ++j) {
                        values[j] = coefficients.at(values[j], shift);
                    }
                    layout.body(gradient)[index] = pack<T>(values);
                }
            }
        }
        if (single_position != kNoPosition) {
            store_one(gradient + single_position, single_position == target_position
                                                      ? coefficients.target
                                                      : coefficients.at(single, shift));
        }
    }

    // The same for a gradient row that is not cut as the logits row is: element by element.
    template <class Shift>
    __device__ __forceinline__ void write_elements(const RowGradient &coefficients,
                                                   const Shift &shift, uint32_t classes) const {
        // Each thread cached its own packs before the merge, which is a barrier; here they are read
        // by whoever needs them.
        const T *cached_body = reinterpret_cast<const T *>(cache);
        for (uint32_t position = threadIdx.x; position < classes; position += blockDim.x) {
            const uint32_t in_body = position - layout.head;  // wraps for the head
            const uint32_t index = in_body / kSize;
            const bool is_cached = index < cached && in_packs(index);
            // Two loads rather than one of a chosen address: each knows its kind of memory.
            const float x =
                is_cached ? load_one(cached_body + in_body) : load_one(logits + position);
            store_one(gradient + position, position == target_position
                                               ? coefficients.target
                                               : coefficients.at(x, shift));
        }
    }

    template <class Shift>
    __device__ __forceinline__ void write(const RowGradient &coefficients, const Shift &shift,
                                          uint32_t classes) const {
        if (same_alignment<T>(logits, gradient)) {
            write_packs(coefficients, shift);
        } else {
            write_elements(coefficients, shift, classes);
        }
    }
};

// The gradient of a row that has none. Reads no logit.
template <typename T>
__device__ __forceinline__ void write_zeros(T *gradient, uint32_t classes) {
    const RowLayout<T> layout(gradient, classes);
    const uint4 zeros = make_uint4(0, 0, 0, 0);
    for (uint32_t index = threadIdx.x; index < layout.packs; index += blockDim.x) {
        layout.body(gradient)[index] = zeros;
    }
    if (threadIdx.x < layout.edges()) store_one(gradient + layout.edge(threadIdx.x), 0.0f);
}

// What is said of a row beside its gradient. Computed by the first warp alone.
struct RowReport {
    float loss;
    float lse;

    template <class Shift>
    __device__ __forceinline__ void compute(const XentFused &p, const RowSoftmax<Shift> &softmax,
                                            float target_logit) {
        if (threadIdx.x >= kWarpSize) return;
        loss = row_loss(softmax, target_logit, p.nll_weight, p.smoothing_weight);
        lse = log_sum_exp(softmax);
    }

    __device__ __forceinline__ void write(const XentFused &p, float inverse_normalizer,
                                          uint64_t row) const {
        if (threadIdx.x >= kWarpSize) return;
        if (threadIdx.x == 0) {
            p.row_losses[row] = loss;
            if (p.row_lse != nullptr) p.row_lse[row] = lse;
        }
        if (p.loss != nullptr) count_row(p, inverse_normalizer, row);
    }
};

template <typename T>
__device__ __forceinline__ void fused_block(const XentFused &p) {
    extern __shared__ uint4 shared[];
    __shared__ BlockMergeStorage storage;
    const float inverse_normalizer = p.device_normalizer != 0
                                         ? p.workspace->inverse_normalizer
                                         : p.inverse_normalizer;

    for (uint64_t index = blockIdx.x; index < p.rows; index += gridDim.x) {
        const T *logits = static_cast<const T *>(p.logits) + index * p.logits_row_stride;
        T *gradient = static_cast<T *>(p.gradient) + index * p.gradient_row_stride;
        const Target target = load_target(p.targets, index, p.classes);
        if (target.kind != TargetKind::kClass) {
            const bool bad = target.kind == TargetKind::kBad;
            if (bad && threadIdx.x == 0) {
                record_bad_target(p.workspace->status, index, target.value, p.classes);
            }
            const float result = bad ? NAN : 0.0f;
            RowReport{result, result}.write(p, inverse_normalizer, index);
            write_zeros(gradient, p.classes);
            continue;
        }
        const BlockRow<T> row(logits, gradient, p.classes, uint32_t(target.value), shared,
                              p.cached_packs);
        const float target_logit = load_one(logits + target.value);

        SoftmaxState<FusedShift> state(-INFINITY);
        row.template accumulate<Pass::kFirst>(state);
        const RowSoftmax<FusedShift> softmax(block_merge(state, storage), target_logit);
        RowGradient coefficients(softmax, p.total_weight, p.smoothing_weight, p.others_weight);
        RowReport report{0.0f, 0.0f};
        report.compute(p, softmax, target_logit);
        const bool exact =
            Dtype<T>::kReachesHugeLogits && needs_exact_shift(softmax, p.smoothing_weight);
        if (exact) {
            // All warps have read the first merge's slots; the second one writes them.
            __syncthreads();
            SoftmaxState<ExactShift> again(softmax.max);
            row.template accumulate<Pass::kLater>(again);
            const RowSoftmax<ExactShift> exactly(block_merge(again, storage), target_logit);
            coefficients =
                RowGradient(exactly, p.total_weight, p.smoothing_weight, p.others_weight);
            report.compute(p, exactly, target_logit);
        }
        // Before the gradient: its fence would wait for all stores of this thread.
        report.write(p, inverse_normalizer, index);
        const float upstream = p.upstream == nullptr ? 1.0f : p.upstream[index * p.upstream_stride];
        coefficients.scale_by(upstream * inverse_normalizer);
        if (exact) {
            row.write(coefficients, ExactShift(softmax.max), p.classes);
        } else {
            row.write(coefficients, softmax.shift, p.classes);
        }
        // All warps have read the merge's slots and the cache; the next row writes both.
        __syncthreads();
    }
}

}  // namespace xent
