#include "fused_loss.cuh"
#include "strategy_cluster.cuh"

#define XENT_FUSED_CLUSTER(NAME, T, TERMS, BLOCKS)                                               \
    extern "C" __global__ void __launch_bounds__(XENT_MAX_BLOCK_THREADS, BLOCKS)                 \
        xent_##NAME(const __grid_constant__ XentFused p) {                                       \
        XENT_CLUSTER(xent::fused<xent::ClusterStrategy<T, xent::TERMS>>(p));                     \
    }

XENT_FUSED_CLUSTER(fused_cluster_f32, float, PlainTerms, 2)
XENT_FUSED_CLUSTER(fused_cluster_f16, __half, PlainTerms, 2)
XENT_FUSED_CLUSTER(fused_cluster_bf16, __nv_bfloat16, PlainTerms, 2)
XENT_FUSED_CLUSTER(fused_general_cluster_f32, float, ClassTerms, 1)
XENT_FUSED_CLUSTER(fused_general_cluster_f16, __half, ClassTerms, 1)
XENT_FUSED_CLUSTER(fused_general_cluster_bf16, __nv_bfloat16, ClassTerms, 1)
