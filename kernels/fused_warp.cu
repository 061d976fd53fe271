#include "fused_loss.cuh"
#include "strategy_warp.cuh"

#define XENT_FUSED_WARP(NAME, T, TERMS, BLOCKS)                                                  \
    extern "C" __global__ void __launch_bounds__(XENT_WARP_BLOCK_THREADS, BLOCKS)                \
        xent_##NAME(const __grid_constant__ XentFused p) {                                       \
        xent::fused<xent::WarpStrategy<T, xent::TERMS>>(p);                                      \
    }

XENT_FUSED_WARP(fused_warp_f32, float, PlainTerms, 4)
XENT_FUSED_WARP(fused_warp_f16, __half, PlainTerms, 4)
XENT_FUSED_WARP(fused_warp_bf16, __nv_bfloat16, PlainTerms, 4)
XENT_FUSED_WARP(fused_general_warp_f32, float, ClassTerms, 3)
XENT_FUSED_WARP(fused_general_warp_f16, __half, ClassTerms, 3)
XENT_FUSED_WARP(fused_general_warp_bf16, __nv_bfloat16, ClassTerms, 3)
