// The loss of one row and the gradient of each of its elements, from a finished softmax state.
//
// Computes, with values x of z = scale * x, p = softmax(z), target y, class weights u and v:
//     loss        = a u_y (-log p_y) + b sum_k v_k (-log p_k) + L lse^2
//     gradient[k] = g * dz/dx * ((a u_y + b V + 2 L lse) p_k - b v_k)                   for k != y
//     gradient[y] = g * dz/dx * ((b (V - v_y) + 2 L lse) p_y - (a u_y + b v_y) (1 - p_y))
// where V is the sum of v. 1 - p_y is others / (others + e_y) and -log p_y is log1p(others / e_y),
// where `others` sums the exponentials of all classes but y: nothing cancels as p_y -> 1.
//
// Invariants: a weight of 0 makes its term 0, also where a logit is -inf; a row that holds NaN or
// +inf, or nothing but -inf, gives NaN in loss, lse and every gradient.
#pragma once

#include "abi.h"
#include "arithmetic.cuh"
#include "softmax_state.cuh"

namespace xent {

// The softmax of a whole row, its target included; the same whatever shift it was formed with.
struct RowSoftmax {
    float max;           // of the values
    float scale;         // z = scale * value
    float others;        // sum of exponentials without the target
    float target;        // the target's exponential
    float sum;           // others + target
    float gap;           // nats from the target up to where exponentials are 1
    float residual;      // log2 of the largest exponential: 0 but for rounding
    float shifted_sum;   // of the others
    float shifted_unit;  // nats in one unit of it
    float mass;          // of the others

    // `state` holds every element but the target, and was raised to the target's value.
    template <class Shift>
    XENT_INLINE RowSoftmax(const SoftmaxState<Shift> &state, const XentTransform &by,
                           float target_value)
        : max(state.max),
          scale(by.scale),
          others(state.sum),
          gap(state.shift.distance(target_value)),
          residual(state.shift.exponent(state.max)),
          shifted_sum(state.shifted_sum),
          shifted_unit(state.shift.shifted_unit()),
          mass(state.mass) {
        target = exp2_approx(state.shift.exponent(target_value));
        sum = add_rn(others, target);
    }
};

XENT_INLINE XentTerms times(const XentTerms &terms, const XentTerms &factors) {
    return {weighted(terms.nll, factors.nll), weighted(terms.smoothing, factors.smoothing),
            weighted(terms.z_loss, factors.z_loss)};
}

// What multiplies the terms of one row.
struct RowWeights {
    float nll;       // a u_y
    float smoothing; // b
    float target;    // v_y
    float z_loss;    // L

    // Both products are formed alike: where a u_y + b v_y is 0, it is 0 exactly.
    XENT_INLINE RowWeights(const XentTerms &terms, float u, float v)
        : nll(weighted(u, terms.nll)), smoothing(terms.smoothing), target(v), z_loss(terms.z_loss) {}
};

// Whether a row's values are beyond what the fused shift can express: a huge maximum; one among
// elements that were taken in before a larger one came (its reference overflowed, so the sum is NaN,
// as it is, rightly, for a row that holds NaN); a target or a sum so far below that it overflowed.
XENT_INLINE bool needs_exact_shift(const RowSoftmax &row, const FusedShift &shift,
                                   float smoothing_weight) {
    return !(fabsf(shift.reference) <= FusedShift::kLargestReference) || row.sum != row.sum ||
           row.gap == INFINITY || (smoothing_weight != 0.0f && row.shifted_sum == -INFINITY);
}

XENT_INLINE float log_of_sum(const RowSoftmax &row) { return kLn2 * log2f(row.sum); }

XENT_INLINE float log_sum_exp(const RowSoftmax &row) {
    return row.scale * row.max + kLn2 * (log2f(row.sum) - row.residual);
}

// weight * -log p_y. Where p_y > 1/2, from the sum of the others; else from the logarithm of the sum.
XENT_INLINE float nll_term(const RowSoftmax &row, float target_value, float weight) {
    if (weight == 0.0f) return 0.0f;
    const float ratio = div_rn(row.others, row.target);
    if (ratio <= 1.0f) return weight * log1pf(ratio);
    // Two huge logits can be further apart than f32 reaches, and their weighted distance not.
    const float scaled = weight * row.scale;
    const float weighted_gap =
        row.gap <= FLT_MAX ? weight * row.gap : scaled * row.max - scaled * target_value;
    return weighted_gap + weight * log_of_sum(row);
}

XENT_INLINE float row_loss(const RowSoftmax &row, float target_value, const RowWeights &weights) {
    float loss = nll_term(row, target_value,
                          weights.nll + weighted(weights.target, weights.smoothing));
    if (weights.smoothing != 0.0f) {
        // The sum over k != y of v_k -log p_k; both terms are of one sign, up to rounding.
        loss += weights.smoothing * weighted(row.mass, log_of_sum(row)) -
                (weights.smoothing * row.shifted_unit) * row.shifted_sum;
    }
    if (weights.z_loss != 0.0f) {
        const float lse = log_sum_exp(row);
        loss += weights.z_loss * lse * lse;
    }
    // A NaN row stays NaN when all its weights are 0.
    return row.sum == row.sum ? loss : row.sum;
}

// What an ignored row adds to the scalar loss, and every other row beside its own: 0, or NaN where the
// nll term's divisor is 0, since a mean of nothing is 0 / 0.
XENT_INLINE float share_of_nothing(float inverse_divisor) { return mul_rn(0.0f, inverse_divisor); }

// gradient[k] = probability_weight * 2^t(x_k) - v_k * constant for k != y; gradient[y] = target;
// all times cap_slope where logits are capped.
struct RowGradient {
    float probability_weight;
    float constant;
    float target;

    XENT_INLINE RowGradient(const RowSoftmax &row, const RowWeights &weights)
        : constant(weights.smoothing) {
        const float on_target = weights.nll + weighted(weights.target, weights.smoothing);
        const float z_loss =
            weights.z_loss == 0.0f ? 0.0f : 2.0f * weights.z_loss * log_sum_exp(row);
        const float on_others = weighted(row.mass, weights.smoothing) + z_loss;
        probability_weight = div_rn(on_target + on_others, row.sum);
        target = on_others * div_rn(row.target, row.sum) - on_target * div_rn(row.others, row.sum);
    }

    // By the upstream gradient and the constant part of dz/dx.
    XENT_INLINE void scale_by(float scale) {
        probability_weight *= scale;
        constant *= scale;
        target *= scale;
    }

    template <class Shift>
    XENT_INLINE float at(float value, const Shift &shift) const {
        return fma_rn(exp2_approx(shift.exponent(value)), probability_weight, -constant);
    }
    template <class Shift>
    XENT_INLINE float at(float value, const Shift &shift, float weight) const {
        return fma_rn(exp2_approx(shift.exponent(value)), probability_weight,
                      -weighted(weight, constant));
    }
};

}  // namespace xent
