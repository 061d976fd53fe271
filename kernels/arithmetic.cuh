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

#endif

}  // namespace xent
