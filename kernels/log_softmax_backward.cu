#include "log_softmax.cuh"
#include "strategy_block.cuh"
#include "strategy_cluster.cuh"
#include "strategy_warp.cuh"

#define XENT_LOG_SOFTMAX_BACKWARD(NAME, THREADS, BLOCKS, ...)                                    \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                \
        xent_log_softmax_backward_##NAME(const __grid_constant__ XentLogSoftmaxBackward p) {     \
        __VA_ARGS__;                                                                             \
    }

// The warp has two matrices in its registers.
#define XENT_LOG_SOFTMAX_BACKWARD_OF(DTYPE, T)                                                   \
    XENT_LOG_SOFTMAX_BACKWARD(                                                                   \
        warp_##DTYPE, XENT_WARP_BLOCK_THREADS, 4,                                                \
        xent::log_softmax_backward<xent::WarpStrategy<T, xent::UpstreamTerms>>(p))               \
    XENT_LOG_SOFTMAX_BACKWARD(                                                                   \
        block_##DTYPE, XENT_MAX_BLOCK_THREADS, 2,                                                \
        xent::log_softmax_backward<xent::BlockStrategy<T, xent::UpstreamTerms>>(p))              \
    XENT_LOG_SOFTMAX_BACKWARD(                                                                   \
        cluster_##DTYPE, XENT_MAX_BLOCK_THREADS, 2,                                              \
        XENT_CLUSTER(xent::log_softmax_backward<xent::ClusterStrategy<T, xent::UpstreamTerms>>(p)))

XENT_LOG_SOFTMAX_BACKWARD_OF(f32, float)
XENT_LOG_SOFTMAX_BACKWARD_OF(f16, __half)
XENT_LOG_SOFTMAX_BACKWARD_OF(bf16, __nv_bfloat16)
