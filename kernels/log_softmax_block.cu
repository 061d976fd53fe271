#include "log_softmax.cuh"

#define XENT_LOG_SOFTMAX_BLOCK(NAME, T)                                                          \
    extern "C" __global__ void __launch_bounds__(XENT_MAX_THREADS, 1)                            \
        xent_log_softmax_block_##NAME(const __grid_constant__ XentLogSoftmax p) {                \
        xent::log_softmax_block<T>(p);                                                           \
    }                                                                                            \
    extern "C" __global__ void __launch_bounds__(XENT_MAX_THREADS, 1)                            \
        xent_log_softmax_backward_block_##NAME(                                                  \
            const __grid_constant__ XentLogSoftmaxBackward p) {                                  \
        xent::log_softmax_backward_block<T>(p);                                                  \
    }

XENT_LOG_SOFTMAX_BLOCK(f32, float)
XENT_LOG_SOFTMAX_BLOCK(f16, __half)
XENT_LOG_SOFTMAX_BLOCK(bf16, __nv_bfloat16)
