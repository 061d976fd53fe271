#include "strategy_block.cuh"

#define XENT_FUSED_BLOCK(NAME, T)                                        \
    extern "C" __global__ void __launch_bounds__(XENT_MAX_THREADS)       \
        xent_fused_block_##NAME(const __grid_constant__ XentFused p) {   \
        xent::fused_block<T>(p);                                         \
    }

XENT_FUSED_BLOCK(f32, float)
XENT_FUSED_BLOCK(f16, __half)
XENT_FUSED_BLOCK(bf16, __nv_bfloat16)
