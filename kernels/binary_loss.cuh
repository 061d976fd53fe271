// Binary cross-entropy from logits, every class a question of its own, and its gradient.
//
// Computes, with targets q_k, or [k = y] for a class index y, t_k = on q_k + off, class weights w and
// positive weights r:
//     loss        = sum_k w_k (r_k t_k softplus(-x_k) + (1 - t_k) softplus(x_k))
//     gradient[k] = g w_k ((1 - t_k) sigmoid(x_k) - r_k t_k sigmoid(-x_k))
// Every term is formed from exp(-|x|) without a difference of near equals: sigmoid(-x) is never
// 1 - sigmoid(x).
// Shapes: logits, gradient and probabilities [rows, classes], any row strides and base alignment.
// Traffic: each logit and each probability once, each gradient once.
// Parallelism: one block a row, cut in packs as the logits are.
// Invariants: an infinite logit gives an infinite loss only if its coefficient is not 0; NaN gives NaN.
//     In place is safe: a thread overwrites only what it alone has read.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "arithmetic.cuh"
#include "dtype.cuh"
#include "ordered_sum.cuh"
#include "reduce.cuh"
#include "row_loss.cuh"
#include "softmax_state.cuh"
#include "strategy_block.cuh"
#include "targets.cuh"
#include "vector.cuh"

namespace xent {

// One element's loss and gradient.
struct BinaryElement {
    float loss;
    float gradient;

    // `positive` multiplies -log sigmoid(x), `negative` -log sigmoid(-x).
    __device__ __forceinline__ BinaryElement(float x, float positive, float negative) {
        const float e = exp2_approx(mul_rn(fabsf(x), -kLog2E));
        const float larger = div_rn(1.0f, add_rn(1.0f, e));  // sigmoid(|x|)
        const float smaller = mul_rn(e, larger);             // sigmoid(-|x|)
        const float tail = log1pf(e);                        // softplus(-|x|)
        const float head = add_rn(fabsf(x), tail);           // softplus(|x|)
        const bool above = x >= 0.0f;
        loss = add_rn(weighted(positive, above ? tail : head),
                      weighted(negative, above ? head : tail));
        gradient = sub_rn(mul_rn(negative, above ? larger : smaller),
                          mul_rn(positive, above ? smaller : larger));
        // NaN stays NaN where both coefficients are 0.
        if (x != x) loss = gradient = x;
    }
};

template <typename T>
struct BinaryRow {
    static constexpr uint32_t kSize = kPackSize<T>;

    const XentBinary &p;
    const T *logits;
    T *gradient;                // or null
    const void *probabilities;  // of this row, or null
    uint32_t target;            // where there are no probabilities
    float scale;                // of the gradient

    template <typename Q>
    __device__ __forceinline__ const Q *probabilities_as() const {
        return static_cast<const Q *>(probabilities);
    }

    __device__ __forceinline__ float target_of(uint32_t position) const {
        if (probabilities == nullptr) return position == target ? 1.0f : 0.0f;
        return p.targets.kind == XENT_TARGET_F32 ? load_one(probabilities_as<float>() + position)
               : p.targets.kind == XENT_TARGET_F16
                   ? load_one(probabilities_as<Half>() + position)
                   : load_one(probabilities_as<Bfloat16>() + position);
    }

    __device__ __forceinline__ void targets_of(uint32_t start, bool aligned,
                                               float (&q)[kSize]) const {
        if (probabilities == nullptr) {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) q[i] = start + i == target ? 1.0f : 0.0f;
        } else if (p.targets.kind == XENT_TARGET_F32) {
            load_run(probabilities_as<float>() + start, aligned, q);
        } else if (p.targets.kind == XENT_TARGET_F16) {
            load_run(probabilities_as<Half>() + start, aligned, q);
        } else {
            load_run(probabilities_as<Bfloat16>() + start, aligned, q);
        }
    }

    __device__ __forceinline__ bool targets_aligned(const RowLayout<T> &layout) const {
        return p.targets.kind == XENT_TARGET_F32
                   ? aligned_with_packs(probabilities_as<float>(), layout)
                   : aligned_with_packs(probabilities_as<Half>(), layout);
    }

    // 1 for all where there are no weights.
    __device__ __forceinline__ void weights_of(const float *weights, uint32_t start, bool aligned,
                                               float (&w)[kSize]) const {
        if (weights != nullptr) {
            load_run(weights + start, aligned, w);
        } else {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) w[i] = 1.0f;
        }
    }

    // A weight that is large beside a coefficient of 0 overflows nothing.
    __device__ __forceinline__ BinaryElement element(float x, float q, float w, float r) const {
        const float t = fma_rn(p.on, q, p.off);
        const float rest = fma_rn(p.on, sub_rn(1.0f, q), p.rest);  // 1 - t, to its own accuracy
        return BinaryElement(x, mul_rn(w, mul_rn(r, t)), mul_rn(w, rest));
    }

    // Loss of this thread's elements; writes their gradients.
    __device__ __forceinline__ float run() const {
        const RowLayout<T> layout(logits, p.classes);
        const bool q_aligned = targets_aligned(layout);
        // Both kinds of weights start where buffers do.
        const bool weights_aligned =
            aligned_with_packs(static_cast<const float *>(nullptr), layout);
        const bool gradient_aligned = same_alignment<T>(logits, gradient);
        float loss = 0.0f;
        for (uint32_t index = threadIdx.x; index < layout.packs; index += blockDim.x) {
            const uint32_t start = layout.start_of(index);
            float x[kSize], q[kSize], w[kSize], r[kSize], losses[kSize];
            unpack<T>(layout.body(logits)[index], x);
            targets_of(start, q_aligned, q);
            weights_of(p.class_weights, start, weights_aligned, w);
            weights_of(p.positive_weights, start, weights_aligned, r);
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) {
                const BinaryElement result = element(x[i], q[i], w[i], r[i]);
                losses[i] = result.loss;
                x[i] = mul_rn(result.gradient, scale);
            }
            loss = add_rn(loss, sum_of(losses));
            if (gradient != nullptr) store_run(gradient + start, gradient_aligned, x);
        }
        if (threadIdx.x < layout.edges()) {
            const uint32_t position = layout.edge(threadIdx.x);
            const float w = p.class_weights == nullptr ? 1.0f : p.class_weights[position];
            const float r = p.positive_weights == nullptr ? 1.0f : p.positive_weights[position];
            const BinaryElement result =
                element(load_one(logits + position), target_of(position), w, r);
            loss = add_rn(loss, result.loss);
            if (gradient != nullptr) store_one(gradient + position, mul_rn(result.gradient, scale));
        }
        return loss;
    }
};

__device__ __forceinline__ void report_binary(const XentBinary &p, uint64_t row, float loss,
                                              float inverse_divisor) {
    if (threadIdx.x >= kWarpSize) return;
    if (threadIdx.x == 0) {
        if (p.row_losses != nullptr) p.row_losses[row] = loss;
        if (p.sums.loss != nullptr) {
            p.sums.row_shares[row] =
                weighted(inverse_divisor, loss) + share_of_nothing(inverse_divisor);
        }
    }
    if (p.sums.loss != nullptr) count_row(p.sums, row);
}

template <typename T>
__device__ __forceinline__ void binary_block(const XentBinary &p) {
    __shared__ BlockMergeStorage storage;
    const bool indices = p.targets.kind <= XENT_TARGET_I64;

    for (uint64_t index = blockIdx.x; index < p.sums.rows; index += gridDim.x) {
        const float inverse =
            p.device_divided != nullptr ? p.device_divided->inverse_divisors.nll : p.inverse_divisor;
        T *gradient = p.gradient == nullptr
                          ? nullptr
                          : static_cast<T *>(p.gradient) + index * p.gradient_row_stride;
        Target target{TargetKind::kClass, 0};
        if (indices) target = load_target(p.targets, index, p.classes);
        if (target.kind != TargetKind::kClass) {
            const bool bad = target.kind == TargetKind::kBad;
            // A backward pass has no workspace: the forward pass has recorded it.
            if (bad && threadIdx.x == 0 && p.sums.workspace != nullptr) {
                record_bad_target(p.sums.workspace->status, index, target.value, p.classes);
            }
            report_binary(p, index, bad ? NAN : 0.0f, inverse);
            if (gradient != nullptr) write_zeros(gradient, p.classes);
            continue;
        }
        const uint64_t start = index * p.targets.row_stride;
        const char *values = static_cast<const char *>(p.targets.values);
        const uint64_t size = p.targets.kind == XENT_TARGET_F32 ? sizeof(float) : sizeof(Half);
        const float upstream = p.upstream == nullptr ? 1.0f : p.upstream[index * p.upstream_stride];
        const BinaryRow<T> row{p,
                               static_cast<const T *>(p.logits) + index * p.logits_row_stride,
                               gradient,
                               indices ? nullptr : values + start * size,
                               uint32_t(target.value),
                               upstream * (inverse * p.over_classes)};
        const float loss = block_sum(row.run(), storage);
        report_binary(p, index, mul_rn(loss, p.over_classes), inverse);
        // All warps have read the sum's slots; the next row writes them.
        __syncthreads();
    }
}

}  // namespace xent
