// What is known of a row's softmax after some of its elements: pure algebra, no memory access.
//
// Computes, over the elements taken in so far, with values x, weights v, t(x) = multiplier * x -
// reference (so that 2^t is exp(z) up to a factor common to the row):
//     max x, the place where it was first met, sum = sum 2^t(x), shifted_sum = sum v t(x), mass = sum v
// One `ex2` and one `fma` an element; the running maximum costs one more `ex2` only when it rises.
//
// The target is never taken in: it is kept beside the state, so that 1 - p_y and -log p_y come
// from the sum over the *other* classes and lose no digits as p_y -> 1.
//
// Invariants: NaN and +inf in any element make `sum` NaN (fmaxf drops NaN, the sum brings it
// back); -inf adds 0 to `sum` and makes `shifted_sum` -inf unless its weight is 0; an empty state
// has max = -inf.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "arithmetic.cuh"

namespace xent {

constexpr float kLn2 = 0.693147180559945309417f;
constexpr float kLog2E = 1.44269504088896340736f;

// Logits as they are.
XENT_INLINE XentTransform identity() { return {1.0f, kLog2E, 0.0f, 0.0f, 1.0f}; }

// The transform of stored logits. A kernel that knows no cap has none to test for.
template <bool kKnowsCap>
struct LogitTransform {
    XentTransform by;

    XENT_INLINE bool capped() const { return kKnowsCap && by.softcap != 0.0f; }
    XENT_INLINE float value(float x) const {
        return capped() ? mul_rn(by.softcap, tanhf(mul_rn(x, by.inner))) : x;
    }
    // What dz / dx is beside by.slope: 1 - tanh^2, as a product, which loses no digits but those that the rounded
    // tanh has lost: far beyond the cap they are most of them.
    XENT_INLINE float cap_slope(float value) const {
        const float tanh = div_rn(value, by.softcap);
        return mul_rn(sub_rn(1.0f, tanh), add_rn(1.0f, tanh));
    }
};

// t(x) by one fma, for |reference| <= kLargestReference. The product is exact inside the fma, so
// rounding the reference moves every t by the same residual, which cancels wherever t is used.
struct FusedShift {
    // Up to here the residual is at most 16; beyond, 2^residual would overflow the sum.
    static constexpr float kLargestReference = 268435456.0f;  // 2^28

    float multiplier;
    float reference;

    XENT_INLINE FusedShift(const XentTransform &by, float max) : multiplier(by.exponent_scale) {
        move_to(max);
    }

    XENT_INLINE float exponent(float x) const { return fma_rn(x, multiplier, -reference); }
    XENT_INLINE float shifted(float, float exponent) const { return exponent; }
    // Nats from x up to where exponentials are 1.
    XENT_INLINE float distance(float x) const { return mul_rn(-kLn2, exponent(x)); }
    // Nats in one unit of `shifted_sum`.
    XENT_INLINE float shifted_unit() const { return kLn2; }
    XENT_INLINE void move_to(float max) {
        reference = max == -INFINITY ? 0.0f : mul_rn(max, multiplier);
    }
    // What changes in t when the reference becomes that of `higher`.
    XENT_INLINE float to(const FusedShift &higher) const {
        return sub_rn(reference, higher.reference);
    }
};

// The same from the difference to a maximum that is known beforehand, for rows that the fma cannot
// take: huge logits, or sums of t that overflow. Two instructions more an element; cold.
struct ExactShift {
    static constexpr float kUnit = 1099511627776.0f;  // 2^40: no row's sum overflows in it

    float multiplier;
    float scale;
    float max;

    XENT_INLINE ExactShift(const XentTransform &by, float row_max)
        : multiplier(by.exponent_scale), scale(by.scale), max(row_max) {}

    XENT_INLINE float exponent(float x) const { return mul_rn(sub_rn(x, max), multiplier); }
    XENT_INLINE float shifted(float x, float) const {
        return fma_rn(x, 1.0f / kUnit, -max * (1.0f / kUnit));
    }
    XENT_INLINE float distance(float x) const { return mul_rn(sub_rn(max, x), scale); }
    XENT_INLINE float shifted_unit() const { return mul_rn(kUnit, scale); }
    // Only from an empty state, whose maximum is -inf: the row's is known before its first element.
    XENT_INLINE void move_to(float row_max) { max = row_max; }
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

// A weight of 0 counts for nothing, also beside an infinity.
XENT_INLINE float weighted(float weight, float value) {
    return weight == 0.0f ? 0.0f : mul_rn(weight, value);
}

constexpr uint32_t kNoPlace = UINT32_MAX;
// One of several packs; whoever asks for it has them at hand.
constexpr uint32_t kSomePack = kNoPlace - 1;

// The weights of elements in `shifted_sum`: it is not kept, all are 1, or they come with the elements.
enum class Weights { kNone, kOnes, kGiven };

template <class Shift, Weights kWeights>
struct SoftmaxState {
    float max;
    uint32_t place;
    Shift shift;
    float sum;
    float shifted_sum;
    float mass;

    // `at_least` is a maximum that is known already, or -inf.
    XENT_INLINE SoftmaxState(const XentTransform &by, float at_least)
        : max(at_least),
          place(kNoPlace),
          shift(by, at_least),
          sum(0.0f),
          shifted_sum(0.0f),
          mass(0.0f) {}

    // Re-expresses the state relative to a maximum of at least `candidate`, met at `where`.
    XENT_INLINE void raise(float candidate, uint32_t where) {
        if (candidate > max) {
            Shift higher = shift;
            higher.move_to(candidate);
            // From -inf there is nothing to convert: the sums hold 0, or -inf, or NaN.
            if (max != -INFINITY) {
                const float change = shift.to(higher);
                sum = mul_rn(sum, exp2_approx(change));
                if (kWeights != Weights::kNone && mass != 0.0f) {
                    shifted_sum = fma_rn(mass, change, shifted_sum);
                }
            }
            max = candidate;
            place = where;
            shift = higher;
        }
    }

    // Elements of weight 1, of which the first is at `where`.
    template <int N>
    XENT_INLINE void add(const float (&x)[N], uint32_t where) {
        raise(max_of(x), where);
        add_below(x, true);
    }
    // The same of elements of which none is above the maximum. Those that are not taken are -inf, all of them.
    template <int N>
    XENT_INLINE void add_below(const float (&x)[N], bool taken) {
        float t[N];
        add_exponentials_up_to_max(x, t);
        if constexpr (kWeights != Weights::kNone) {
            XENT_UNROLL
            for (int i = 0; i < N; ++i) t[i] = shift.shifted(x[i], t[i]);
            const float of_pack = sum_of(t);
            if (taken) {
                shifted_sum = add_rn(shifted_sum, of_pack);
                mass = add_rn(mass, float(N));
            }
        }
    }

    template <int N>
    XENT_INLINE void add(const float (&x)[N], const float (&weights)[N], uint32_t where) {
        float t[N], terms[N];
        add_exponentials(x, t, where);
        XENT_UNROLL
        for (int i = 0; i < N; ++i) terms[i] = mul_rn(weights[i], shift.shifted(x[i], t[i]));
        float of_pack = sum_of(terms);
        // 0 times an infinity is looked for once a pack.
        if (of_pack != of_pack) {
            XENT_UNROLL
            for (int i = 0; i < N; ++i) terms[i] = weighted(weights[i], shift.shifted(x[i], t[i]));
            of_pack = sum_of(terms);
        }
        shifted_sum = add_rn(shifted_sum, of_pack);
        mass = add_rn(mass, sum_of(weights));
    }

    // Elements of which none is above the maximum. One that is not taken is -inf, and counts for nothing.
    template <int N>
    XENT_INLINE void add_up_to_max(const float (&x)[N], const bool (&taken)[N]) {
        float t[N];
        add_exponentials_up_to_max(x, t);
        if constexpr (kWeights != Weights::kNone) {
            XENT_UNROLL
            for (int i = 0; i < N; ++i) t[i] = taken[i] ? shift.shifted(x[i], t[i]) : 0.0f;
            shifted_sum = add_rn(shifted_sum, sum_of(t));
        }
    }
    template <int N>
    XENT_INLINE void add_up_to_max(const float (&x)[N], const float (&weights)[N]) {
        float t[N];
        add_exponentials_up_to_max(x, t);
        XENT_UNROLL
        for (int i = 0; i < N; ++i) t[i] = weighted(weights[i], shift.shifted(x[i], t[i]));
        shifted_sum = add_rn(shifted_sum, sum_of(t));
        mass = add_rn(mass, sum_of(weights));
    }

  private:
    template <int N>
    XENT_INLINE void add_exponentials(const float (&x)[N], float (&t)[N], uint32_t where) {
        raise(max_of(x), where);
        add_exponentials_up_to_max(x, t);
    }

    template <int N>
    XENT_INLINE void add_exponentials_up_to_max(const float (&x)[N], float (&t)[N]) {
        float exponentials[N];
        XENT_UNROLL
        for (int i = 0; i < N; ++i) {
            t[i] = shift.exponent(x[i]);
            exponentials[i] = exp2_approx(t[i]);
        }
        sum = add_rn(sum, sum_of(exponentials));
    }
};

}  // namespace xent
