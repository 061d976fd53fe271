// What is known of a row's softmax after some of its elements: pure algebra, no memory access.
//
// Computes, over the elements x taken in so far, with t(x) = log2(e) * x - reference:
//     max, sum = sum 2^t(x), shifted_sum = sum t(x), count
// One `ex2` and one `fma` an element; the running maximum costs one more `ex2` only when it rises.
//
// The target is never taken in: it is kept beside the state, so that 1 - p_y and -log p_y come
// from the sum over the *other* classes and lose no digits as p_y -> 1.
//
// Invariants: NaN and +inf in any element make `sum` NaN (fmaxf drops NaN, the sum brings it
// back); -inf adds 0 to `sum` and makes `shifted_sum` -inf; an empty state has max = -inf.
#pragma once

#include <stdint.h>

#include "arithmetic.cuh"

namespace xent {

constexpr float kLog2e = 1.44269504088896340736f;
constexpr float kLn2 = 0.693147180559945309417f;

// t(x) by one fma, for |max| <= kLargestMax. The product is exact inside the fma, so rounding the
// reference moves every t by the same residual, which cancels wherever t is used.
struct FusedShift {
    // Up to here the residual is at most 16; beyond, 2^residual would overflow the sum.
    static constexpr float kLargestMax = 268435456.0f;  // 2^28
    // Nats in one unit of `shifted_sum`.
    static constexpr float kShiftedUnit = kLn2;

    float reference;

    XENT_INLINE explicit FusedShift(float max)
        : reference(max == -INFINITY ? 0.0f : mul_rn(max, kLog2e)) {}

    XENT_INLINE float exponent(float x) const {
        return fma_rn(x, kLog2e, -reference);
    }
    XENT_INLINE float shifted(float, float exponent) const { return exponent; }
    // What changes in t when the reference becomes that of `higher`.
    XENT_INLINE float to(const FusedShift &higher) const {
        return sub_rn(reference, higher.reference);
    }
};

// The same from the difference to a maximum that is known beforehand, for rows that the fma cannot
// take: huge logits, or sums of t that overflow. Two instructions more an element; cold.
struct ExactShift {
    static constexpr float kShiftedUnit = 1099511627776.0f;  // 2^40: no row's sum overflows in it

    float max;

    XENT_INLINE explicit ExactShift(float row_max) : max(row_max) {}

    XENT_INLINE float exponent(float x) const {
        return mul_rn(sub_rn(x, max), kLog2e);
    }
    XENT_INLINE float shifted(float x, float) const {
        return fma_rn(x, 1.0f / kShiftedUnit, -max * (1.0f / kShiftedUnit));
    }
    XENT_INLINE float to(const ExactShift &) const { return 0.0f; }
};

// Pairwise, so that neither rounding error nor latency grows with N.
template <int N>
XENT_INLINE float sum_of(const float (&x)[N]) {
    float partial[N];
XENT_UNROLL
    for (int i = 0; i < N; ++i) partial[i] = x[i];
XENT_UNROLL
    for (int width = N / 2; width > 0; width /= 2) {
XENT_UNROLL
        for (int i = 0; i < width; ++i) partial[i] = add_rn(partial[i], partial[i + width]);
    }
    return partial[0];
}

template <int N>
XENT_INLINE float max_of(const float (&x)[N]) {
    float largest = x[0];
XENT_UNROLL
    for (int i = 1; i < N; ++i) largest = fmaxf(largest, x[i]);
    return largest;
}

template <class Shift>
struct SoftmaxState {
    float max;
    Shift shift;
    float sum;
    float shifted_sum;
    uint32_t count;

    // `at_least` is a maximum that is known already, or -inf.
    XENT_INLINE explicit SoftmaxState(float at_least)
        : max(at_least), shift(at_least), sum(0.0f), shifted_sum(0.0f), count(0) {}

    // Re-expresses the state relative to a maximum of at least `candidate`.
    XENT_INLINE void raise(float candidate) {
        if (candidate > max) {
            const Shift higher(candidate);
            // From -inf there is nothing to convert: the sums hold 0, or -inf, or NaN.
            if (max != -INFINITY) {
                const float change = shift.to(higher);
                sum = mul_rn(sum, exp2_approx(change));
                shifted_sum = fma_rn(float(count), change, shifted_sum);
            }
            max = candidate;
            shift = higher;
        }
    }

    template <int N>
    XENT_INLINE void add(const float (&x)[N]) {
        raise(max_of(x));
        float exponentials[N];
        float shifted[N];
XENT_UNROLL
        for (int i = 0; i < N; ++i) {
            const float t = shift.exponent(x[i]);
            exponentials[i] = exp2_approx(t);
            shifted[i] = shift.shifted(x[i], t);
        }
        sum = add_rn(sum, sum_of(exponentials));
        shifted_sum = add_rn(shifted_sum, sum_of(shifted));
        count += N;
    }
};

}  // namespace xent
