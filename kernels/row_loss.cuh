// The loss of one row and the gradient of each of its elements, from a finished softmax state.
//
// Computes, with p = softmax(row), y the target, a = nll_weight, b = smoothing_weight and V the
// number of classes:
//     loss          = a * -log p_y + b * sum_k -log p_k
//     gradient[k]   = scale * ((a + b V) p_k - b)                 for k != y
//     gradient[y]   = scale * ((a + b V) (p_y - 1) + b (V - 1))
// 1 - p_y is others / (others + e_y) and -log p_y is log1p(others / e_y), where `others` sums the
// exponentials of all classes but y: nothing cancels as p_y -> 1.
//
// Invariants: a weight of 0 makes its term 0, also where a logit is -inf; a row that holds NaN or
// +inf, or nothing but -inf, gives NaN in loss, lse and every gradient.
#pragma once

#include "arithmetic.cuh"
#include "softmax_state.cuh"

namespace xent {

// The softmax of a whole row, its target included.
template <class Shift>
struct RowSoftmax {
    float max;
    Shift shift;
    float others;          // sum of exponentials without the target
    float target;          // the target's exponential
    float sum;             // others + target
    float target_exponent; // log2 of the target's exponential
    float shifted_sum;     // of the others, in units of Shift::kShiftedUnit
    float others_count;

    // `state` holds every element but the target.
    XENT_INLINE RowSoftmax(SoftmaxState<Shift> state, float target_logit)
        : max(0.0f), shift(0.0f) {
        state.raise(target_logit);
        max = state.max;
        shift = state.shift;
        others = state.sum;
        target_exponent = shift.exponent(target_logit);
        target = exp2_approx(target_exponent);
        sum = add_rn(others, target);
        shifted_sum = state.shifted_sum;
        others_count = float(state.count);
    }
};

// Whether a row's values are beyond what the fused shift can express: a huge maximum; one among
// elements that were taken in before a larger one came (its reference overflowed, so the sum is NaN,
// as it is, rightly, for a row that holds NaN); a target or a sum so far below that it overflowed.
XENT_INLINE bool needs_exact_shift(const RowSoftmax<FusedShift> &row, float smoothing_weight) {
    return !(fabsf(row.max) <= FusedShift::kLargestMax) || row.sum != row.sum ||
           row.target_exponent == -INFINITY ||
           (smoothing_weight != 0.0f && row.shifted_sum == -INFINITY);
}

// weight * -log p_y. Where p_y > 1/2, from the sum of the others; else from the logarithm of the sum.
XENT_INLINE float nll_term(const RowSoftmax<FusedShift> &row, float, float weight) {
    if (weight == 0.0f) return 0.0f;
    const float ratio = div_rn(row.others, row.target);
    return weight * (ratio <= 1.0f ? log1pf(ratio) : kLn2 * (log2f(row.sum) - row.target_exponent));
}

XENT_INLINE float nll_term(const RowSoftmax<ExactShift> &row, float target_logit, float weight) {
    if (weight == 0.0f) return 0.0f;
    const float ratio = div_rn(row.others, row.target);
    if (ratio <= 1.0f) return weight * log1pf(ratio);
    const float gap = row.max - target_logit;
    // Two huge logits can be further apart than f32 reaches, and their weighted distance not.
    const float weighted_gap =
        gap <= FLT_MAX ? weight * gap : weight * row.max - weight * target_logit;
    return weighted_gap + weight * (kLn2 * log2f(row.sum));
}

// exponent(max) is the residual by which rounding the reference moved every exponent.
template <class Shift>
XENT_INLINE float log_sum_exp(const RowSoftmax<Shift> &row) {
    return row.max + kLn2 * (log2f(row.sum) - row.shift.exponent(row.max));
}

template <class Shift>
XENT_INLINE float row_loss(const RowSoftmax<Shift> &row, float target_logit, float nll_weight,
                           float smoothing_weight) {
    float loss = nll_term(row, target_logit, nll_weight + smoothing_weight);
    if (smoothing_weight != 0.0f) {
        // The sum over k != y of -log p_k; both terms are of one sign, up to rounding.
        const float log_sum = kLn2 * log2f(row.sum);
        loss += smoothing_weight * (row.others_count * log_sum) -
                (smoothing_weight * Shift::kShiftedUnit) * row.shifted_sum;
    }
    // A NaN row stays NaN when all its weights are 0.
    return row.sum == row.sum ? loss : row.sum;
}

// gradient[k] = probability_weight * 2^t(x_k) - constant for k != y; gradient[y] = target.
struct RowGradient {
    float probability_weight;
    float constant;
    float target;

    template <class Shift>
    XENT_INLINE RowGradient(const RowSoftmax<Shift> &row, float total_weight,
                                           float smoothing_weight, float others_weight)
        : probability_weight(div_rn(total_weight, row.sum)),
          constant(smoothing_weight),
          target(others_weight - total_weight * div_rn(row.others, row.sum)) {}

    // By the upstream gradient and the normalizer.
    XENT_INLINE void scale_by(float scale) {
        probability_weight *= scale;
        constant *= scale;
        target *= scale;
    }

    template <class Shift>
    XENT_INLINE float at(float x, const Shift &shift) const {
        return fma_rn(exp2_approx(shift.exponent(x)), probability_weight, -constant);
    }
};

}  // namespace xent
