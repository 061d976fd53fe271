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

// Packs that a thread has in flight at once, to cover the latency of memory; fewer in the general
// kernels, whose code for a pack is long, and one where it is cold.
template <class Shift, bool kGeneral>
constexpr uint32_t kPacksInFlight = kGeneral ? 2 : 4;
template <bool kGeneral>
constexpr uint32_t kPacksInFlight<ExactShift, kGeneral> = 1;

// Where a pass finds the packs that shared memory has room for.
enum class Pass { kFirst, kLater };

constexpr uint32_t kNoPosition = UINT32_MAX;

template <typename T, bool kGeneral>
struct BlockRow {
    static constexpr uint32_t kSize = kPackSize<T>;
    // Two edges and a pack: every single element has a lane of the first warp.
    static_assert(3 * kSize - 2 <= kWarpSize, "single elements need a lane each");

    const T *logits;
    RowLayout<T> layout;
    uint4 *cache;
    uint32_t cached;           // packs [0, cached) of the body are kept in `cache`
    uint32_t target_position;
    uint32_t target_pack;      // or kNoPack
    uint32_t single_position;  // this thread's single element, or kNoPosition
    float single;              // its value
    LogitTransform<kGeneral> transform;
    const float *weights;      // v, or null for 1

    __device__ __forceinline__ BlockRow(const XentFused &p, const T *logits_row, uint32_t target,
                                        uint4 *shared)
        : logits(logits_row),
          layout(logits_row, p.classes),
          cache(shared),
          cached(p.cached_packs),
          target_position(target),
          target_pack(layout.pack_of(target)),
          single_position(kNoPosition),
          single(0.0f),
          transform{p.transform},
          weights(p.smoothing_weights) {
        const uint32_t beyond_edges = threadIdx.x - layout.edges();  // wraps for an edge
        if (threadIdx.x < layout.edges()) {
            single_position = layout.edge(threadIdx.x);
        } else if (target_pack != kNoPack && beyond_edges < kSize) {
            single_position = layout.start_of(target_pack) + beyond_edges;
        }
        if (single_position != kNoPosition) {
            single = transform.value(load_one(logits + single_position));
        }
    }

    __device__ __forceinline__ bool weighted_classes() const {
        return kGeneral && weights != nullptr;
    }

    __device__ __forceinline__ float target_value() const {
        return transform.value(load_one(logits + target_position));
    }

    __device__ __forceinline__ void values_of(uint4 bits, float (&x)[kSize]) const {
        unpack<T>(bits, x);
        if (transform.capped()) {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) x[i] = transform.value(x[i]);
        }
    }

    __device__ __forceinline__ void weights_of(uint32_t index, float (&v)[kSize]) const {
        const float *from = weights + layout.start_of(index);
#pragma unroll
        for (uint32_t i = 0; i < kSize; ++i) v[i] = from[i];
    }

    __device__ __forceinline__ float weight_of(uint32_t position) const {
        return weighted_classes() ? weights[position] : 1.0f;
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
        constexpr uint32_t kBatch = kPacksInFlight<Shift, kGeneral>;
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
                    values_of(batch[i], x);
                    if (!weighted_classes()) {
                        state.add(x);
                    } else {
                        float v[kSize];
                        weights_of(index, v);
                        state.add(x, v);
                    }
                }
            }
        }
        if (single_position != kNoPosition && single_position != target_position) {
            const float one[1] = {single};
            const float weight[1] = {weight_of(single_position)};
            state.add(one, weight);
        }
    }

    // Writes this thread's gradients in packs, last pack first.
    template <class Shift>
    __device__ __forceinline__ void write_packs(T *gradient, const RowGradient &coefficients,
                                                const Shift &shift) const {
        constexpr uint32_t kBatch = kPacksInFlight<Shift, kGeneral>;
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
                    values_of(batch[i], values);
                    gradients_of(index, values, coefficients, shift);
                    layout.body(gradient)[index] = pack<T>(values);
                }
            }
        }
        if (single_position != kNoPosition) {
            store_one(gradient + single_position,
                      gradient_of(single_position, single, coefficients, shift));
        }
    }

    // From the values of a pack to its gradients. The branches are the same for the whole grid.
    template <class Shift>
    __device__ __forceinline__ void gradients_of(uint32_t index, float (&values)[kSize],
                                                 const RowGradient &coefficients,
                                                 const Shift &shift) const {
        float slopes[kSize];
        if (transform.capped()) {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) slopes[i] = transform.cap_slope(values[i]);
        }
        if (!weighted_classes()) {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) values[i] = coefficients.at(values[i], shift);
        } else {
            float v[kSize];
            weights_of(index, v);
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) {
                values[i] = coefficients.at(values[i], shift, v[i]);
            }
        }
        if (transform.capped()) {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) values[i] = mul_rn(values[i], slopes[i]);
        }
    }

    template <class Shift>
    __device__ __forceinline__ float gradient_of(uint32_t position, float value,
                                                 const RowGradient &coefficients,
                                                 const Shift &shift) const {
        const float slope = transform.capped() ? transform.cap_slope(value) : 1.0f;
        const float before = position == target_position
                                 ? coefficients.target
                                 : coefficients.at(value, shift, weight_of(position));
        return mul_rn(before, slope);
    }

    // The same for a gradient row that is not cut as the logits row is: element by element.
    template <class Shift>
    __device__ __forceinline__ void write_elements(T *gradient, const RowGradient &coefficients,
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
            store_one(gradient + position,
                      gradient_of(position, transform.value(x), coefficients, shift));
        }
    }

    template <class Shift>
    __device__ __forceinline__ void write(T *gradient, const RowGradient &coefficients,
                                          const Shift &shift, uint32_t classes) const {
        if (same_alignment<T>(logits, gradient)) {
            write_packs(gradient, coefficients, shift);
        } else {
            write_elements(gradient, coefficients, shift, classes);
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
    float loss;   // its terms, not divided
    float share;  // its part of the scalar loss
    float lse;

    __device__ __forceinline__ void compute(const RowSoftmax &softmax, float target_value,
                                            const RowWeights &weights, const RowWeights &divided,
                                            const XentTerms &inverse) {
        if (threadIdx.x >= kWarpSize) return;
        loss = row_loss(softmax, target_value, weights);
        // One divisor for all terms is the rule: then the row's logarithms are not formed again,
        // unless the loss overflowed, which its share need not.
        const bool alike = inverse.nll == inverse.smoothing && inverse.nll == inverse.z_loss &&
                           fabsf(loss) <= FLT_MAX;
        const float divided_loss =
            alike ? weighted(inverse.nll, loss) : row_loss(softmax, target_value, divided);
        share = divided_loss + share_of_nothing(inverse.nll);
        lse = log_sum_exp(softmax);
    }

    __device__ __forceinline__ void write(const XentFused &p, uint64_t row) const {
        if (threadIdx.x >= kWarpSize) return;
        if (threadIdx.x == 0) {
            if (p.row_losses != nullptr) p.row_losses[row] = loss;
            if (p.row_lse != nullptr) p.row_lse[row] = lse;
            if (p.loss != nullptr) p.row_shares[row] = share;
        }
        if (p.loss != nullptr) count_row(p, row);
    }
};

template <typename T>
__device__ __forceinline__ T *gradient_row(const XentFused &p, uint64_t row) {
    return static_cast<T *>(p.gradient) + row * p.gradient_row_stride;
}

__device__ __forceinline__ XentTerms inverse_divisors(const XentFused &p) {
    return p.device_divisors != 0 ? p.workspace->inverse_divisors : p.inverse_divisors;
}

// `target` was found to be a class.
__device__ __forceinline__ RowWeights row_weights(const XentFused &p, uint32_t target,
                                                  const XentTerms &terms) {
    const float u = p.nll_weights == nullptr ? 1.0f : p.nll_weights[target];
    const float v = p.smoothing_weights == nullptr ? 1.0f : p.smoothing_weights[target];
    return RowWeights(terms, u, v);
}

template <typename T, bool kGeneral>
__device__ __forceinline__ void fused_block(const XentFused &p) {
    extern __shared__ uint4 shared[];
    __shared__ BlockMergeStorage storage;

    for (uint64_t index = blockIdx.x; index < p.rows; index += gridDim.x) {
        const T *logits = static_cast<const T *>(p.logits) + index * p.logits_row_stride;
        const Target target = load_target(p.targets, index, p.classes);
        if (target.kind != TargetKind::kClass) {
            const bool bad = target.kind == TargetKind::kBad;
            if (bad && threadIdx.x == 0) {
                record_bad_target(p.workspace->status, index, target.value, p.classes);
            }
            const float result = bad ? NAN : 0.0f;
            const float nothing = share_of_nothing(inverse_divisors(p).nll);
            RowReport{result, result + nothing, result}.write(p, index);
            write_zeros(gradient_row<T>(p, index), p.classes);
            continue;
        }
        const BlockRow<T, kGeneral> row(p, logits, uint32_t(target.value), shared);
        const float target_value = row.target_value();
        SoftmaxState<FusedShift> state(p.transform, -INFINITY);
        row.template accumulate<Pass::kFirst>(state);
        state = block_merge(state, storage, p.transform);
        state.raise(target_value);
        RowSoftmax softmax(state, p.transform, target_value);
        const bool exact = needs_exact_shift(softmax, state.shift, p.term_weights.smoothing);
        if (exact) {
            // All warps have read the first merge's slots; the second one writes them.
            __syncthreads();
            SoftmaxState<ExactShift> again(p.transform, softmax.max);
            row.template accumulate<Pass::kLater>(again);
            softmax = RowSoftmax(block_merge(again, storage, p.transform), p.transform, target_value);
        }
        const RowWeights weights = row_weights(p, row.target_position, p.term_weights);
        const XentTerms inverse = inverse_divisors(p);
        const RowWeights divided =
            row_weights(p, row.target_position, times(p.term_weights, inverse));
        RowGradient coefficients(softmax, divided);
        const float upstream = p.upstream == nullptr ? 1.0f : p.upstream[index * p.upstream_stride];
        coefficients.scale_by(upstream * p.transform.slope);
        // Before the gradient: its fence would wait for all stores of this thread.
        RowReport report{0.0f, 0.0f, 0.0f};
        report.compute(softmax, target_value, weights, divided, inverse);
        report.write(p, index);
        T *gradient = gradient_row<T>(p, index);
        if (exact) {
            row.write(gradient, coefficients, ExactShift(p.transform, softmax.max), p.classes);
        } else {
            row.write(gradient, coefficients, state.shift, p.classes);
        }
        // All warps have read the merge's slots and the cache; the next row writes both.
        __syncthreads();
    }
}

}  // namespace xent
