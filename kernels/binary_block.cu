#include "binary_loss.cuh"

#define XENT_BINARY_BLOCK(NAME, T)                                                               \
    extern "C" __global__ void __launch_bounds__(XENT_MAX_BINARY_THREADS, 1)                     \
        xent_binary_block_##NAME(const __grid_constant__ XentBinary p) {                         \
        xent::binary_block<T>(p);                                                                \
    }

XENT_BINARY_BLOCK(f32, float)
XENT_BINARY_BLOCK(f16, __half)
XENT_BINARY_BLOCK(bf16, __nv_bfloat16)
