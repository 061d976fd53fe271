#include "fused_loss.cuh"
#include "strategy_split_row.cuh"

#define XENT_FUSED_SPLIT_ROW(NAME, T, TERMS, BLOCKS)                                             \
    extern "C" __global__ void __launch_bounds__(XENT_MAX_BLOCK_THREADS, BLOCKS)                 \
        xent_##NAME(const __grid_constant__ XentFused p) {                                       \
        xent::fused<xent::SplitRowStrategy<T, xent::TERMS>>(p);                                  \
    }

XENT_FUSED_SPLIT_ROW(fused_split_row_f32, float, PlainTerms, 2)
XENT_FUSED_SPLIT_ROW(fused_split_row_f16, __half, PlainTerms, 2)
XENT_FUSED_SPLIT_ROW(fused_split_row_bf16, __nv_bfloat16, PlainTerms, 2)
XENT_FUSED_SPLIT_ROW(fused_general_split_row_f32, float, ClassTerms, 1)
XENT_FUSED_SPLIT_ROW(fused_general_split_row_f16, __half, ClassTerms, 1)
XENT_FUSED_SPLIT_ROW(fused_general_split_row_bf16, __nv_bfloat16, ClassTerms, 1)
