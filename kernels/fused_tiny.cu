#include "fused_tiny.cuh"

#define XENT_FUSED_TINY(NAME, T, TERMS)                                                          \
    extern "C" __global__ void __launch_bounds__(XENT_WARP_BLOCK_THREADS, 7)                     \
        xent_##NAME(const __grid_constant__ XentFused p) {                                       \
        xent::fused_tiny<T, xent::TERMS>(p);                                                     \
    }

XENT_FUSED_TINY(fused_tiny_f32, float, PlainTerms)
XENT_FUSED_TINY(fused_tiny_f16, __half, PlainTerms)
XENT_FUSED_TINY(fused_tiny_bf16, __nv_bfloat16, PlainTerms)
XENT_FUSED_TINY(fused_general_tiny_f32, float, ClassTerms)
XENT_FUSED_TINY(fused_general_tiny_f16, __half, ClassTerms)
XENT_FUSED_TINY(fused_general_tiny_bf16, __nv_bfloat16, ClassTerms)
