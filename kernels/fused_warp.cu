#include "fused_loss.cuh"
#include "strategy_warp.cuh"

#define XENT_FUSED_WARP(NAME, T, TERMS, PACKS, BLOCKS)                                           \
    extern "C" __global__ void __launch_bounds__(XENT_WARP_BLOCK_THREADS, BLOCKS)                \
        xent_##NAME(const __grid_constant__ XentFused p) {                                       \
        xent::fused<xent::WarpStrategy<T, xent::TERMS, PACKS>>(p);                               \
    }

XENT_FUSED_WARP(fused_short_warp_f32, float, PlainTerms, XENT_SHORT_WARP_PACKS, 8)
XENT_FUSED_WARP(fused_short_warp_f16, __half, PlainTerms, XENT_SHORT_WARP_PACKS, 8)
XENT_FUSED_WARP(fused_short_warp_bf16, __nv_bfloat16, PlainTerms, XENT_SHORT_WARP_PACKS, 8)
XENT_FUSED_WARP(fused_warp_f32, float, PlainTerms, XENT_LONG_WARP_PACKS, 5)
XENT_FUSED_WARP(fused_warp_f16, __half, PlainTerms, XENT_LONG_WARP_PACKS, 5)
XENT_FUSED_WARP(fused_warp_bf16, __nv_bfloat16, PlainTerms, XENT_LONG_WARP_PACKS, 5)
XENT_FUSED_WARP(fused_general_warp_f32, float, ClassTerms, XENT_LONG_WARP_PACKS, 4)
XENT_FUSED_WARP(fused_general_warp_f16, __half, ClassTerms, XENT_LONG_WARP_PACKS, 4)
XENT_FUSED_WARP(fused_general_warp_bf16, __nv_bfloat16, ClassTerms, XENT_LONG_WARP_PACKS, 4)
