// Binary cross-entropy from logits, every class a question of its own, and its gradient.
//
// Computes, with targets q_k, or [k = y] for a class index y, t_k = on q_k + off, class weights w and
// positive weights r, under any strategy:
//     loss        = sum_k w_k (r_k t_k softplus(-x_k) + (1 - t_k) softplus(x_k))
//     gradient[k] = g w_k ((1 - t_k) sigmoid(x_k) - r_k t_k sigmoid(-x_k))
// Every term is formed from exp(-|x|) without a difference of near equals: sigmoid(-x) is never
// 1 - sigmoid(x).
// Shapes: logits, gradient and probabilities [rows, classes], any row strides and base alignment.
// Traffic: each logit and each probability once, each gradient once. The logit of a target, and packs with an
//     infinity whose coefficient is 0, a second time, from the cache closest by.
// Parallelism: the strategy's; rows are cut as the logits are. A thread goes once over its elements.
// Invariants: an infinite logit gives an infinite loss only if its coefficient is not 0; NaN gives NaN.
//     In place is safe: a thread overwrites only what it alone has read.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "arithmetic.cuh"
#include "cluster.cuh"
#include "dtype.cuh"
#include "ordered_sum.cuh"
#include "reduce.cuh"
#include "row_loss.cuh"
#include "row.cuh"
#include "softmax_state.cuh"
#include "speakers.cuh"
#include "targets.cuh"
#include "terms.cuh"
#include "vector.cuh"

namespace xent {

// What multiplies -log sigmoid(x), and -log sigmoid(-x).
struct BinaryCoefficients {
    float positive;
    float negative;
};

// One element, as its loss and its gradient have it in common.
struct BinaryElement {
    float x;
    float e;      // exp(-|x|)
    float small;  // what multiplies softplus(-|x|) in the loss, and -sigmoid(-|x|) in the gradient,
    float large;  // and softplus(|x|) and sigmoid(|x|)

    __device__ __forceinline__ BinaryElement() {}
    __device__ __forceinline__ BinaryElement(float logit, const BinaryCoefficients &by)
        : x(logit),
          e(exp2_approx(mul_rn(fabsf(x), -kLog2E))),
          small(above() ? by.positive : by.negative),
          large(above() ? by.negative : by.positive) {}

    // NaN for an infinite logit whose coefficient is 0: see `loss_of_any`.
    __device__ __forceinline__ float loss() const {
        const float tail = log1p_of_unit(e);
        return fma_rn(small, tail, mul_rn(large, add_rn(fabsf(x), tail)));
    }
    // Whatever the logit.
    __device__ __forceinline__ float loss_of_any() const {
        const float tail = log1p_of_unit(e);
        return fma_rn(small, tail, weighted(large, add_rn(fabsf(x), tail)));
    }

    __device__ __forceinline__ float gradient(float scale) const {
        // sigmoid(|x|) is 1 / (1 + e), sigmoid(-|x|) e times that.
        const float sigmoid = reciprocal_approx(add_rn(1.0f, e));
        const float difference = mul_rn(fma_rn(-small, e, large), sigmoid);
        return with_sign_of_x(mul_rn(difference, scale));
    }

  private:
    // By its sign alone: a zero may go either way.
    __device__ __forceinline__ bool above() const { return __float_as_int(x) >= 0; }
    __device__ __forceinline__ float with_sign_of_x(float value) const {
        return __uint_as_float(__float_as_uint(value) ^ (__float_as_uint(x) & 0x80000000u));
    }
};

// What makes a row's logits into losses and gradients.
template <typename T>
struct BinaryTerms {
    static constexpr uint32_t kSize = kPackSize<T>;

    const XentBinary &p;
    const void *probabilities;  // of this row, or null
    uint32_t target;            // where there are no probabilities
    bool wants_loss;
    bool wants_gradient;
    bool targets_aligned;
    bool weights_aligned;       // both kinds

    __device__ __forceinline__ BinaryTerms(const XentBinary &argument, uint64_t row,
                                           const RowLayout<T> &layout, uint32_t class_index)
        : p(argument),
          probabilities(nullptr),
          target(class_index),
          wants_loss(p.row_losses != nullptr || p.sums.loss != nullptr),
          wants_gradient(p.gradient != nullptr),
          targets_aligned(true),
          weights_aligned(aligned_with_packs(p.class_weights, layout) &&
                          aligned_with_packs(p.positive_weights, layout)) {
        if (p.targets.kind == XENT_TARGET_F32) {
            find_row<float>(row, layout);
        } else if (p.targets.kind == XENT_TARGET_F16) {
            find_row<Half>(row, layout);
        } else if (p.targets.kind == XENT_TARGET_BF16) {
            find_row<Bfloat16>(row, layout);
        }
    }

    template <typename Q>
    __device__ __forceinline__ void find_row(uint64_t row, const RowLayout<T> &layout) {
        const Q *start = static_cast<const Q *>(p.targets.values) + row * p.targets.row_stride;
        probabilities = start;
        targets_aligned = aligned_with_packs(start, layout);
    }

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

    // The targets of a pack as they are stored, where there are probabilities and they can be loaded at once.
    struct TargetBits {
        uint4 first;
        uint4 second;  // of f32 beside halves
    };
    __device__ __forceinline__ TargetBits target_bits(uint32_t start) const {
        TargetBits bits = {};
        if (!targets_aligned) return bits;
        if (p.targets.kind == XENT_TARGET_F32) {
            const uint4 *const from = reinterpret_cast<const uint4 *>(probabilities_as<float>() + start);
            bits.first = from[0];
            if constexpr (kSize > kPackSize<float>) bits.second = from[1];
        } else {
            // Of either half type.
            const uint16_t *const from = probabilities_as<uint16_t>() + start;
            if constexpr (kSize == kPackSize<uint16_t>) {
                bits.first = *reinterpret_cast<const uint4 *>(from);
            } else {
                const uint2 two = *reinterpret_cast<const uint2 *>(from);
                bits.first.x = two.x;
                bits.first.y = two.y;
            }
        }
        return bits;
    }

    // Where there are probabilities.
    __device__ __forceinline__ void targets_of(uint32_t start, const TargetBits &bits,
                                               float (&q)[kSize]) const {
        if (p.targets.kind == XENT_TARGET_F32) {
            targets_as<float>(start, bits, q);
        } else if (p.targets.kind == XENT_TARGET_F16) {
            targets_as<Half>(start, bits, q);
        } else {
            targets_as<Bfloat16>(start, bits, q);
        }
    }

    template <typename Q>
    __device__ __forceinline__ void targets_as(uint32_t start, const TargetBits &bits,
                                               float (&q)[kSize]) const {
        if (!targets_aligned) {
            load_run(probabilities_as<Q>() + start, false, q);
            return;
        }
        constexpr uint32_t kInPack = kPackSize<Q>;
        float first[kInPack], second[kInPack];
        unpack<Q>(bits.first, first);
        unpack<Q>(bits.second, second);
#pragma unroll
        for (uint32_t i = 0; i < kSize; ++i) q[i] = i < kInPack ? first[i] : second[i - kInPack];
    }

    // Of elements without weights.
    __device__ __forceinline__ BinaryCoefficients coefficients(float q) const {
        // 1 - t, to its own accuracy.
        return {fma_rn(p.on, q, p.off), fma_rn(p.on, sub_rn(1.0f, q), p.rest)};
    }
    // A weight that is large beside a coefficient of 0 overflows nothing.
    __device__ __forceinline__ static BinaryCoefficients times(const BinaryCoefficients &by, float w,
                                                               float r) {
        return {mul_rn(w, mul_rn(r, by.positive)), mul_rn(w, by.negative)};
    }
    __device__ __forceinline__ BinaryElement element(float x, uint32_t position) const {
        return BinaryElement(x, times(coefficients(target_of(position)),
                                      weight_at(p.class_weights, position),
                                      weight_at(p.positive_weights, position)));
    }
    // Of an element that is not passed as one of many.
    __device__ __forceinline__ float loss_of(const BinaryElement &element) const {
        return wants_loss ? element.loss_of_any() : 0.0f;
    }

    __device__ __forceinline__ bool weighs() const {
        return p.class_weights != nullptr || p.positive_weights != nullptr;
    }
    __device__ __forceinline__ static float weight_at(const float *weights, uint32_t position) {
        return weights == nullptr ? 1.0f : weights[position];
    }
    template <int N>
    __device__ __forceinline__ void weights_of(const float *weights, uint32_t start,
                                               float (&w)[N]) const {
        if (weights != nullptr) {
            load_run(weights + start, weights_aligned, w);
        } else {
#pragma unroll
            for (int i = 0; i < N; ++i) w[i] = 1.0f;
        }
    }

    // From a pack's logits, which are still in memory too, to their gradients; the sum of their losses.
    // kDense: whether there are probabilities; kWeighs: whether there are weights; `scale` is of the gradients.
    template <bool kDense, bool kWeighs>
    __device__ __forceinline__ float pass(const T *logits, uint32_t start, const TargetBits &bits,
                                          float scale, float (&x)[kSize]) const {
        float q[kSize];
        if constexpr (kDense) targets_of(start, bits, q);
        // Of a class index all but one are 0, and that one is put right.
        const uint32_t at = kDense ? kSize : target - start;
        float target_loss = 0.0f, target_gradient = 0.0f;
        if (at < kSize) {
            const BinaryElement one = element(load_one(logits + target), target);
            target_loss = loss_of(one);
            target_gradient = one.gradient(scale);
        }
        // A few at a time: what belongs to a whole pack would take half of the registers.
        constexpr uint32_t kFew = kPackSize<float>;
        float loss = 0.0f;
#pragma unroll
        for (uint32_t first = 0; first < kSize; first += kFew) {
            float w[kFew], r[kFew], losses[kFew];
            if constexpr (kWeighs) {
                weights_of(p.class_weights, start + first, w);
                weights_of(p.positive_weights, start + first, r);
            }
            BinaryElement elements[kFew];
#pragma unroll
            for (uint32_t i = 0; i < kFew; ++i) {
                BinaryCoefficients by = coefficients(kDense ? q[first + i] : 0.0f);
                if constexpr (kWeighs) by = times(by, w[i], r[i]);
                elements[i] = BinaryElement(x[first + i], by);
                losses[i] = 0.0f;
            }
            if (wants_loss) {
#pragma unroll
                for (uint32_t i = 0; i < kFew; ++i) losses[i] = elements[i].loss();
            }
            if (wants_gradient) {
#pragma unroll
                for (uint32_t i = 0; i < kFew; ++i) x[first + i] = elements[i].gradient(scale);
            }
            if (!kDense && at - first < kFew) {
#pragma unroll
                for (uint32_t i = 0; i < kFew; ++i) {
                    losses[i] = first + i == at ? target_loss : losses[i];
                    x[first + i] = first + i == at ? target_gradient : x[first + i];
                }
            }
            loss = first == 0 ? sum_of(losses) : add_rn(loss, sum_of(losses));
        }
        return loss == loss ? loss : loss_slowly(logits, start);
    }

  private:
    // The sum of the losses of a pack's elements, whatever they are. Cold.
    __device__ __forceinline__ float loss_slowly(const T *logits, uint32_t start) const {
        float loss = 0.0f;
#pragma unroll 1
        for (uint32_t position = start; position < start + kSize; ++position) {
            loss = add_rn(loss, element(load_one(logits + position), position).loss_of_any());
        }
        return loss;
    }
};

// Loss of a thread's elements; writes their gradients, if there is a place for them. `scale_of_row()` is that of
// the gradient: what it is made of may be on its way, as the first targets are.
template <bool kDense, bool kWeighs, class Row, typename T, class Scale>
__device__ __forceinline__ float pass_row(Row &row, const BinaryTerms<T> &terms, T *gradient,
                                          const Scale &scale_of_row) {
    constexpr uint32_t kSize = kPackSize<T>;
    const bool gradient_aligned = same_alignment<T>(row.input, gradient);
    const auto prefetch = [&](uint32_t index) {
        if constexpr (kDense) {
            return terms.target_bits(row.layout.start_of(index));
        } else {
            return typename BinaryTerms<T>::TargetBits{};
        }
    };
    const auto first_bits = row.packs.prefetched(prefetch);
    float loss = 0.0f;
    const float scale = scale_of_row();
    // What they need is on its way beside the first packs. Others read none of them.
    row.for_each_single([&](uint32_t i) {
        const uint32_t position = row.single_position[i];
        const BinaryElement element = terms.element(row.single_value(i), position);
        loss = add_rn(loss, terms.loss_of(element));
        if (gradient != nullptr) store_one(gradient + position, element.gradient(scale));
    });
    row.packs.forward(first_bits, prefetch, [&](uint32_t index, uint4 bits, const auto &target_bits) {
        const uint32_t start = row.layout.start_of(index);
        float x[kSize];
        unpack<T>(bits, x);
        const float losses =
            terms.template pass<kDense, kWeighs>(row.input, start, target_bits, scale, x);
        loss = add_rn(loss, losses);
        if (gradient != nullptr) store_run(gradient + start, gradient_aligned, x);
    });
    return loss;
}

// The branches are the same for the whole grid.
template <class Row, typename T, class Scale>
__device__ __forceinline__ float binary_of_packs(Row &row, const BinaryTerms<T> &terms, T *gradient,
                                                 const Scale &scale_of_row) {
    if (terms.probabilities != nullptr) {
        return terms.weighs() ? pass_row<true, true>(row, terms, gradient, scale_of_row)
                              : pass_row<true, false>(row, terms, gradient, scale_of_row);
    }
    return terms.weighs() ? pass_row<false, true>(row, terms, gradient, scale_of_row)
                          : pass_row<false, false>(row, terms, gradient, scale_of_row);
}

// The same of a row that is not in packs.
template <class Row, typename T>
__device__ __forceinline__ float binary_of_elements(Row &row, const BinaryTerms<T> &terms, T *gradient,
                                                    float scale) {
    return row.sum_over(gradient != nullptr, [&](float &x, uint32_t position) {
        const BinaryElement element = terms.element(x, position);
        if (gradient != nullptr) x = element.gradient(scale);
        return terms.loss_of(element);
    });
}

// What is to be said of a row beside its gradient.
struct BinarySummary {
    TargetKind kind;
    float loss;
};

// Called by one warp, whose speaking lanes have the summaries of their rows.
__device__ __forceinline__ void report_binary(const XentBinary &p, const BinarySummary &summary,
                                              const Speakers &speakers, float inverse_divisor) {
    if (speakers.speaks) {
        const uint64_t row = speakers.row;
        const bool bad = summary.kind == TargetKind::kBad;
        const float loss = bad ? NAN : summary.loss;
        // A backward pass has no workspace: the forward pass has recorded it.
        if (bad && p.sums.workspace != nullptr) {
            record_bad_target(p.sums.workspace->status, row, target_value(p.targets, row),
                              p.classes);
        }
        if (p.row_losses != nullptr) p.row_losses[row] = loss;
        if (p.sums.loss != nullptr) {
            leave_value(p.sums.row_shares + row,
                        weighted(inverse_divisor, loss) + share_of_nothing(inverse_divisor));
        }
    }
    // Under tiny, rows are counted now and then.
    if (p.sums.loss == nullptr || speakers.rows == 0) return;
    const uint32_t earlier = count_rows(p.sums, speakers.first, speakers.rows);
    sum_if_last(p.sums, speakers.first, speakers.rows, earlier);
}

template <class Strategy>
__device__ __forceinline__ void binary(const XentBinary &p) {
    using T = typename Strategy::Element;
    extern __shared__ uint4 shared[];
    __shared__ typename Strategy::Storage storage;

    Strategy strategy(storage, shared, p.geometry, p.classes);
    // What the launch before this one found, once it is there.
    const auto inverse_divisor = [&] {
        return p.device_divided != nullptr ? p.device_divided->inverse_divisors.nll : p.inverse_divisor;
    };
    const auto body = [&](uint64_t index, const auto &tell) {
        Target target{TargetKind::kClass, 0};
        if (p.targets.kind <= XENT_TARGET_I64) target = load_target(p.targets, index, p.classes);
        const bool reads = target.kind == TargetKind::kClass;
        const T *logits = static_cast<const T *>(p.logits) + index * p.logits_row_stride;
        // Of a row that is not read, nothing.
        const RowLayout<T> layout(logits, reads ? p.classes : 0);
        auto row = strategy.row(logits, p.logits_row_stride, layout, ElementTerms(), identity(),
                                kNoPosition);
        // The first row is on its way.
        wait_for_launch_before();
        T *const gradient = p.gradient == nullptr
                                ? nullptr
                                : static_cast<T *>(p.gradient) + index * p.gradient_row_stride;
        const bool has_upstream = gradient != nullptr && p.upstream != nullptr;
        const float upstream = has_upstream ? p.upstream[index * p.upstream_stride] : 1.0f;
        // A pass without a gradient waits for none of it.
        const auto scale_of_row = [&] {
            return gradient == nullptr ? 0.0f : upstream * (inverse_divisor() * p.over_classes);
        };
        const BinaryTerms<T> terms(p, index, layout, uint32_t(target.value));
        float loss = 0.0f;
        if (reads) {
            if constexpr (Strategy::Row::kHasPacks) {
                loss = binary_of_packs(row, terms, gradient, scale_of_row);
            } else {
                loss = binary_of_elements(row, terms, gradient, scale_of_row());
            }
            loss = row.team.sum(loss);
        } else if (gradient != nullptr) {
            strategy.write_zeros(gradient, p.classes);
        }
        if (gradient != nullptr) strategy.close_output(gradient, p.gradient_row_stride);
        tell(BinarySummary{target.kind, mul_rn(loss, p.over_classes)});
    };
    strategy.template for_each_row<BinarySummary>(
        p.sums.rows, body, [&](const BinarySummary &summary, const Speakers &speakers) {
            report_binary(p, summary, speakers, inverse_divisor());
        });
}

}  // namespace xent
