#include "log_softmax.cuh"
#include "strategy_block.cuh"
#include "strategy_cluster.cuh"
#include "strategy_tiny.cuh"
#include "strategy_warp.cuh"

#define XENT_LOG_SOFTMAX(NAME, THREADS, BLOCKS, ...)                                             \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                \
        xent_log_softmax_##NAME(const __grid_constant__ XentLogSoftmax p) {                      \
        __VA_ARGS__;                                                                             \
    }

#define XENT_LOG_SOFTMAX_OF(DTYPE, T)                                                            \
    XENT_LOG_SOFTMAX(tiny_##DTYPE, XENT_WARP_BLOCK_THREADS, 8,                                   \
                     xent::log_softmax<xent::TinyStrategy<T, xent::NoTerms>>(p))                 \
    XENT_LOG_SOFTMAX(warp_##DTYPE, XENT_WARP_BLOCK_THREADS, 4,                                   \
                     xent::log_softmax<xent::WarpStrategy<T, xent::NoTerms>>(p))                 \
    XENT_LOG_SOFTMAX(block_##DTYPE, XENT_MAX_BLOCK_THREADS, 2,                                   \
                     xent::log_softmax<xent::BlockStrategy<T, xent::NoTerms>>(p))                \
    XENT_LOG_SOFTMAX(cluster_##DTYPE, XENT_MAX_BLOCK_THREADS, 2,                                 \
                     XENT_CLUSTER(xent::log_softmax<xent::ClusterStrategy<T, xent::NoTerms>>(p)))

XENT_LOG_SOFTMAX_OF(f32, float)
XENT_LOG_SOFTMAX_OF(f16, __half)
XENT_LOG_SOFTMAX_OF(bf16, __nv_bfloat16)
