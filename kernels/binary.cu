#include "binary_loss.cuh"
#include "strategy_block.cuh"
#include "strategy_tiny.cuh"
#include "strategy_warp.cuh"

#define XENT_BINARY(NAME, THREADS, BLOCKS, ...)                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                \
        xent_binary_##NAME(const __grid_constant__ XentBinary p) {                               \
        xent::binary<xent::__VA_ARGS__>(p);                                                      \
    }

#define XENT_BINARY_OF(DTYPE, T)                                                                 \
    XENT_BINARY(tiny_##DTYPE, XENT_WARP_BLOCK_THREADS, 8, TinyStrategy<T, xent::ElementTerms>)   \
    XENT_BINARY(warp_##DTYPE, XENT_WARP_BLOCK_THREADS, 5, WarpStrategy<T, xent::ElementTerms>)   \
    XENT_BINARY(block_##DTYPE, XENT_MAX_BLOCK_THREADS, 2, BlockStrategy<T, xent::ElementTerms>)

XENT_BINARY_OF(f32, float)
XENT_BINARY_OF(f16, __half)
XENT_BINARY_OF(bf16, __nv_bfloat16)
