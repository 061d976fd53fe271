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
    uint32_t packs_here;       // this thread's packs: threadIdx.x + i * blockDim.x, i < packs_here
    uint32_t single_position;  // this thread's single element, or kNoPosition
    float single;

    static constexpr uint32_t kNoPosition = UINT32_MAX;

    __device__ __forceinline__ BlockRow(const XentFused &p, uint64_t row, uint4 *shared,
                                        uint32_t target)
        : logits(logits_row(p, row)),
          gradient(gradient_row(p, row)),
          layout(logits, p.classes),
          cache(shared),
          cached(min(layout.packs, p.cached_packs)),
          target_position(target),
          target_pack(layout.pack_of(target)),
          packs_here(layout.packs > threadIdx.x
                         ? (layout.packs - threadIdx.x - 1) / blockDim.x + 1
                         : 0),
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

    static __device__ __forceinline__ const T *logits_row(const XentFused &p, uint64_t row) {
        return static_cast<const T *>(p.logits) + row * p.logits_row_stride;
    }
    static __device__ __forceinline__ T *gradient_row(const XentFused &p, uint64_t row) {
        return static_cast<T *>(p.gradient) + row * p.gradient_row_stride;
    }

    __device__ __forceinline__ uint32_t pack_index(uint32_t i) const {
        return threadIdx.x + i * blockDim.x;
    }

    template <Pass pass>
    __device__ __forceinline__ uint4 fetch(uint32_t index) const {
        if (index == target_pack) return make_uint4(0, 0, 0, 0);  // never used
        const uint4 *body = layout.body(logits);
        return pass == Pass::kLater && index < cached ? cache[index] : body[index];
    }

    template <Pass pass, class Shift>
    __device__ __forceinline__ void take(SoftmaxState<Shift> &state, uint32_t index,
                                         uint4 bits) const {
        if (pass == Pass::kFirst && index < cached) cache[index] = bits;
        if (index == target_pack) return;
        float x[kSize];
        unpack<T>(bits, x);
        state.add(x);
    }

    // Takes every element of this thread but the target into `state`, first pack first.
    template <Pass pass, class Shift>
    __device__ __forceinline__ void accumulate(SoftmaxState<Shift> &state) const {
        constexpr uint32_t kBatch = kPacksInFlight<Shift>;
        uint32_t done = 0;
        for (; done + kBatch <= packs_here; done += kBatch) {
            uint4 batch[kBatch];
#pragma unroll
            for (uint32_t i = 0; i < kBatch; ++i) batch[i] = fetch<pass>(pack_index(done + i));
#pragma unroll
            for (uint32_t i = 0; i < kBatch; ++i) take<pass>(state, pack_index(done + i), batch[i]);
        }
        for (; done < packs_here; ++done) {
            take<pass>(state, pack_index(done), fetch<pass>(pack_index(done)));
        }
        if (single_position != kNoPosition && single_position != target_position) {
            const float one[1] = {single};
            state.add(one);
        }
    }

    template <class Shift>
    __device__ __forceinline__ void put_pack(uint32_t index, uint4 bits,
                                             const RowGradient &coefficients,
                                             const Shift &shift) const {
        if (index == target_pack) return;
        float values[kSize];
        unpack<T>(bits, values);
#pragma unroll
        for (uint32_t i = 0; i < kSize; ++i) values[i] = coefficients.at(values[i], shift);
        layout.body(gradient)[index] = pack<T>(values);
    }

    // Writes this thread's gradients, last pack first.
    template <class Shift>
    __device__ __forceinline__ void write_packs(const RowGradient &coefficients,
                                                const Shift &shift) const {
        constexpr uint32_t kBatch = kPacksInFlight<Shift>;
        uint32_t left = packs_here;
        for (; left >= kBatch; left -= kBatch) {
            uint4 batch[kBatch];
#pragma unroll
            for (uint32_t i = 0; i < kBatch; ++i) {
                batch[i] = fetch<Pass::kLater>(pack_index(left - 1 - i));
            }
#pragma unroll
            for (uint32_t i = 0; i < kBatch; ++i) {
                put_pack(pack_index(left - 1 - i), batch[i], coefficients, shift);
            }
        }
        for (; left > 0; --left) {
            const uint32_t index = pack_index(left - 1);
            put_pack(index, fetch<Pass::kLater>(index), coefficients, shift);
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
        // Each thread cached its own packs; below they are read by whoever needs them.
        __syncthreads();
        const T *cached_body = reinterpret_cast<const T *>(cache);
        for (uint32_t position = threadIdx.x; position < classes; position += blockDim.x) {
            const uint32_t in_body = position - layout.head;  // wraps for the head
            // The target's pack was never cached.
            const bool in_cache = in_body < cached * kSize && in_body / kSize != target_pack;
            const float x = load_one(in_cache ? cached_body + in_body : logits + position);
            store_one(gradient + position, position == target_position
                                               ? coefficients.target
                                               : coefficients.at(x, shift));
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

// What the row's owner reports; by thread 0, then counted by its warp.
__device__ __forceinline__ void report_row(const XentFused &p, float inverse_normalizer,
                                           uint64_t row, float loss, float lse) {
    if (threadIdx.x >= kWarpSize) return;
    if (threadIdx.x == 0) {
        p.row_losses[row] = loss;
        if (p.row_lse != nullptr) p.row_lse[row] = lse;
    }
    if (p.loss != nullptr) count_row(p, inverse_normalizer, row);
}

template <typename T, class Shift>
__device__ __forceinline__ void finish_row(const XentFused &p, const BlockRow<T> &row,
                                           const RowSoftmax<Shift> &softmax, float target_logit,
                                           uint64_t index, float inverse_normalizer) {
    if (threadIdx.x < kWarpSize) {
        report_row(p, inverse_normalizer, index,
                   row_loss(softmax, target_logit, p.nll_weight, p.smoothing_weight),
                   log_sum_exp(softmax));
    }
    const float upstream = p.upstream == nullptr ? 1.0f : p.upstream[index * p.upstream_stride];
    const RowGradient coefficients(softmax, p.total_weight, p.smoothing_weight, p.others_weight,
                                   upstream * inverse_normalizer);
    if (same_alignment<T>(row.logits, row.gradient)) {
        row.write_packs(coefficients, softmax.shift);
    } else {
        row.write_elements(coefficients, softmax.shift, p.classes);
    }
}

template <typename T>
__device__ __forceinline__ void fused_block(const XentFused &p) {
    extern __shared__ uint4 shared[];
    __shared__ BlockMergeStorage storage;
    const float inverse_normalizer = p.device_normalizer != 0
                                         ? p.workspace->inverse_normalizer
                                         : p.inverse_normalizer;

    for (uint64_t index = blockIdx.x; index < p.rows; index += gridDim.x) {
        const Target target = load_target(p.targets, index, p.classes);
        if (target.kind != TargetKind::kClass) {
            const bool bad = target.kind == TargetKind::kBad;
            if (bad && threadIdx.x == 0) {
                record_bad_target(p.workspace->status, index, target.value, p.classes);
            }
            const float result = bad ? NAN : 0.0f;
            report_row(p, inverse_normalizer, index, result, result);
            write_zeros(BlockRow<T>::gradient_row(p, index), p.classes);
            continue;
        }
        const BlockRow<T> row(p, index, shared, uint32_t(target.value));
        const float target_logit = load_one(row.logits + row.target_position);

        SoftmaxState<FusedShift> state(-INFINITY);
        row.template accumulate<Pass::kFirst>(state);
        const RowSoftmax<FusedShift> softmax(block_merge(state, storage), target_logit);
        if (Dtype<T>::kReachesHugeLogits && needs_exact_shift(softmax, p.smoothing_weight)) {
            // All warps have read the first merge's slots; the second one writes them.
            __syncthreads();
            SoftmaxState<ExactShift> exact(softmax.max);
            row.template accumulate<Pass::kLater>(exact);
            finish_row(p, row, RowSoftmax<ExactShift>(block_merge(exact, storage), target_logit),
                       target_logit, index, inverse_normalizer);
        } else {
            finish_row(p, row, softmax, target_logit, index, inverse_normalizer);
        }
        // All warps have read the merge's slots and the cache; the next row writes both.
        __syncthreads();
    }
}

}  // namespace xent
