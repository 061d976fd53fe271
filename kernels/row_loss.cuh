// The loss of one row and the gradient of each of its elements, from a finished softmax state.
//
// Computes, with values x of z = scale * x, p = softmax(z), target y, class weights u and v:
//     loss        = a u_y (-log p_y) + b sum_k v_k (-log p_k) + L lse^2
//     gradient[k] = g * dz/dx * ((a u_y + b V + 2 L lse) p_k - b v_k)                   for k != y
//     gradient[y] = g * dz/dx * ((b (V - v_y) + 2 L lse) p_y - (a u_y + b v_y) (1 - p_y))
// where V is the sum of v. 1 - p_y is others / (others + e_y) and -log p_y is log1p(others / e_y),
// where `others` sums the exponentials of all classes but y: nothing cancels as p_y -> 1.
//
// Target probabilities are the same without a target: a = 0, b = 1 and v_k what multiplies -log p_k.
// Where one class has nearly all the probability, it takes the target's place.
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

    RowSoftmax() = default;

    // `state` holds every element but the target, which is still to be added, and was raised to its
    // value.
    template <class Shift, Weights kWeights>
    XENT_INLINE RowSoftmax(const SoftmaxState<Shift, kWeights> &state, const XentTransform &by)
        : max(state.max),
          scale(by.scale),
          others(state.sum),
          target(0.0f),
          sum(state.sum),
          gap(0.0f),
          residual(state.shift.exponent(state.max)),
          shifted_sum(state.shifted_sum),
          shifted_unit(state.shift.shifted_unit()),
          mass(state.mass) {}

    // What a forward pass saved: enough for the gradient. Without the target, as above.
    template <class Shift>
    XENT_INLINE RowSoftmax(const XentSavedRow &saved, const Shift &shift, const XentTransform &by)
        : max(saved.max),
          scale(by.scale),
          others(saved.others),
          target(0.0f),
          sum(saved.others),
          gap(0.0f),
          residual(shift.exponent(saved.max)),
          shifted_sum(0.0f),
          shifted_unit(shift.shifted_unit()),
          mass(saved.mass) {}

    template <class Shift>
    XENT_INLINE void add_target(float value, const Shift &shift) {
        gap = shift.distance(value);
        target = exp2_approx(shift.exponent(value));
        sum = add_rn(others, target);
    }
};

// Whether one class has so much of a row's probability, 2/3 or more, that 1 - p and -log p of it would
// lose digits in the sum over all classes. A row without a target then keeps that class apart.
XENT_INLINE bool is_confident(const RowSoftmax &row) {
    // A row of nothing but -inf has no such class: its largest exponential is 0.
    const float largest = exp2_approx(row.residual);
    return row.others <= 1.5f * largest && largest > 0.0f;
}

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

    // For target probabilities: `cross_entropy` multiplies the whole sum over classes, in which the
    // class that is kept apart, if any, has the weight `apart`.
    XENT_INLINE RowWeights(float cross_entropy, float apart, float z_loss_weight)
        : nll(0.0f), smoothing(cross_entropy), target(apart), z_loss(z_loss_weight) {}
};

// Whether a row's values are beyond what the fused shift can express: a huge maximum; one among
// elements that were taken in before a larger one came (its reference overflowed, so the sum is NaN,
// as it is, rightly, for a row that holds NaN); a target or a sum so far below that it overflowed, to
// either side where weights are negative, or to both.
XENT_INLINE bool needs_exact_shift(const RowSoftmax &row, const FusedShift &shift,
                                   float smoothing_weight) {
    return !(fabsf(shift.reference) <= FusedShift::kLargestReference) || row.sum != row.sum ||
           row.gap == INFINITY ||
           (smoothing_weight != 0.0f && !(fabsf(row.shifted_sum) <= FLT_MAX));
}

// log(sum_k exp(z_k - z_max)).
XENT_INLINE float log_of_sum(const RowSoftmax &row) {
    return kLn2 * (log2f(row.sum) - row.residual);
}

XENT_INLINE float log_sum_exp(const RowSoftmax &row) {
    return row.scale * row.max + log_of_sum(row);
}

// weight * -log p_y. Where p_y > 1/2, from the sum of the others; else from the logarithm of the sum and
// the target's distance to the maximum, which is exact more often than its exponent is.
XENT_INLINE float nll_term(const RowSoftmax &row, float target_value, float weight,
                           float log2_of_sum) {
    if (weight == 0.0f) return 0.0f;
    const float ratio = div_rn(row.others, row.target);
    if (ratio <= 1.0f) return weight * log1p_of_unit(ratio);
    // Two huge logits can be further apart than f32 reaches, and their weighted distance not.
    const float gap = row.scale * sub_rn(row.max, target_value);
    const float scaled = weight * row.scale;
    const float weighted_gap =
        gap <= FLT_MAX ? weight * gap : scaled * row.max - scaled * target_value;
    return weighted_gap + weight * (kLn2 * (log2_of_sum - row.residual));
}
XENT_INLINE float nll_term(const RowSoftmax &row, float target_value, float weight) {
    return nll_term(row, target_value, weight, log2f(row.sum));
}

XENT_INLINE float row_loss(const RowSoftmax &row, float target_value, const RowWeights &weights) {
    // In a larger unit: where a weight is negative, terms can be beyond f32's range and their sum is not.
    constexpr float kUnit = 256.0f, kToUnit = 1.0f / kUnit;
    const float on_target = weights.nll + weighted(weights.target, weights.smoothing);
    // Thirty instructions, and nearly every row needs it at least once.
    const float log2_of_sum = log2f(row.sum);
    float loss = nll_term(row, target_value, kToUnit * on_target, log2_of_sum);
    if (weights.smoothing != 0.0f) {
        // The sum over k != y of v_k -log p_k; both terms are of one sign, up to rounding. The second is
        // relative to where exponentials are 1, and so is the first.
        const float smoothing = kToUnit * weights.smoothing;
        loss += smoothing * weighted(row.mass, kLn2 * log2_of_sum) -
                (smoothing * row.shifted_unit) * row.shifted_sum;
    }
    if (weights.z_loss != 0.0f) {
        const float lse = log_sum_exp(row);
        loss += kToUnit * weights.z_loss * lse * lse;
    }
    // A row that holds NaN, or nothing but -inf, is NaN also when all its weights are 0.
    return row.sum > 0.0f ? kUnit * loss : NAN;
}

// log p_k of each element of a row without a target, whose logits are as they are.
struct LogProbabilities {
    float max;
    float log_of_sum;

    XENT_INLINE explicit LogProbabilities(const RowSoftmax &row)
        : max(row.max), log_of_sum(xent::log_of_sum(row)) {}

    template <class Shift>
    XENT_INLINE float at(float value, const Shift &) const {
        return sub_rn(sub_rn(value, max), log_of_sum);
    }
};

// p_k of each element of a row without a target.
struct Probabilities {
    float inverse_sum;

    XENT_INLINE explicit Probabilities(const RowSoftmax &row) : inverse_sum(div_rn(1.0f, row.sum)) {}

    template <class Shift>
    XENT_INLINE float at(float value, const Shift &shift) const {
        return mul_rn(exp2_approx(shift.exponent(value)), inverse_sum);
    }
};

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
        // One division, a dozen instructions, in place of three.
        const float inverse = div_rn(1.0f, row.sum);
        probability_weight = (on_target + on_others) * inverse;
        target = on_others * (row.target * inverse) - on_target * (row.others * inverse);
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
