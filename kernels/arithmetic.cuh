// The arithmetic of the row algebra, for the device and for a host compiler: tests/row_algebra.cpp
// runs the same algebra on the CPU at native speed.
//
// The functions round once and are never contracted: whatever is formed twice (in both passes, or
// by several threads) is formed by them. Plain operators stand where a contraction would only
// remove a rounding.
#pragma once

#include <float.h>

#ifdef __CUDACC__
#define XENT_INLINE __device__ __forceinline__
#define XENT_UNROLL _Pragma("unroll")
#else
#include <algorithm>
#include <cmath>
#define XENT_INLINE inline
#define XENT_UNROLL
#endif

namespace xent {

#ifdef __CUDACC__

XENT_INLINE float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
XENT_INLINE float mul_rn(float a, float b) { return __fmul_rn(a, b); }
XENT_INLINE float add_rn(float a, float b) { return __fadd_rn(a, b); }
XENT_INLINE float sub_rn(float a, float b) { return __fsub_rn(a, b); }
XENT_INLINE float div_rn(float a, float b) { return __fdiv_rn(a, b); }

// One MUFU.EX2. The full-range exp2f would scale around it, for results below the normal range,
// which are 0 here.
XENT_INLINE float exp2_approx(float t) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(t));
    return result;
}

// One MUFU.RCP, within 1 ulp, of a normal x whose reciprocal is normal too.
XENT_INLINE float reciprocal_approx(float x) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

#else

// Compiled with -ffp-contract=off.
XENT_INLINE float fma_rn(float a, float b, float c) { return std::fma(a, b, c); }
XENT_INLINE float mul_rn(float a, float b) { return a * b; }
XENT_INLINE float add_rn(float a, float b) { return a + b; }
XENT_INLINE float sub_rn(float a, float b) { return a - b; }
XENT_INLINE float div_rn(float a, float b) { return a / b; }

XENT_INLINE float exp2_approx(float t) {
    const float result = std::exp2(t);
    return result < FLT_MIN ? 0.0f : result;
}
XENT_INLINE float reciprocal_approx(float x) { return 1.0f / x; }

#endif

// log(1 + e) for e in [0, 1], and NaN for NaN: e + e^2 Q(e), with Q of degree 7 the minimax polynomial for
// the relative error, each coefficient rounded before the next ones were fitted: 0.56 * 2^-24. With all
// roundings at most 2.16 * 2^-24, found by trying every normal f32 in the range; tests/row_algebra.rs tries
// some.
XENT_INLINE float log1p_of_unit(float e) {
    float q = 0.00536542246f;
    q = fma_rn(q, e, -0.0300683007f);
    q = fma_rn(q, e, 0.0792088285f);
    q = fma_rn(q, e, -0.137541875f);
    q = fma_rn(q, e, 0.191538483f);
    q = fma_rn(q, e, -0.248572171f);
    q = fma_rn(q, e, 0.3332133f);
    q = fma_rn(q, e, -0.499996483f);
    return fma_rn(mul_rn(e, e), q, e);
}

}  // namespace xent
