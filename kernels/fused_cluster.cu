#include "fused_loss.cuh"
#include "strategy_cluster.cuh"

#define XENT_FUSED_CLUSTER(NAME, T, TERMS)                                                       \
    extern "C" __global__ void __launch_bounds__(XENT_MAX_BLOCK_THREADS, 2)                      \
        xent_##NAME(const __grid_constant__ XentFused p) {                                       \
        XENT_CLUSTER(xent::fused<xent::ClusterStrategy<T, xent::TERMS>>(p));                     \
    }

XENT_FUSED_CLUSTER(fused_cluster_f32, float, PlainTerms)
XENT_FUSED_CLUSTER(fused_cluster_f16, __half, PlainTerms)
XENT_FUSED_CLUSTER(fused_cluster_bf16, __nv_bfloat16, PlainTerms)
XENT_FUSED_CLUSTER(fused_general_cluster_f32, float, ClassTerms)
XENT_FUSED_CLUSTER(fused_general_cluster_f16, __half, ClassTerms)
XENT_FUSED_CLUSTER(fused_general_cluster_bf16, __nv_bfloat16, ClassTerms)
