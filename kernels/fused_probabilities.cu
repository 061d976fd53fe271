#include "fused_loss.cuh"
#include "strategy_block.cuh"
#include "strategy_cluster.cuh"

// Target probabilities, of any dtype for each dtype of logits. One block a multiprocessor at least: with
// fewer registers they would spill.
#define XENT_FUSED_PROBABILITIES(NAME, ...)                                                      \
    extern "C" __global__ void __launch_bounds__(XENT_MAX_BLOCK_THREADS, 1)                      \
        xent_fused_probabilities_##NAME(const __grid_constant__ XentFused p) {                   \
        __VA_ARGS__;                                                                             \
    }

#define XENT_FUSED_PROBABILITIES_OF(DTYPE, T)                                                    \
    XENT_FUSED_PROBABILITIES(block_##DTYPE,                                                      \
                             xent::fused<xent::BlockStrategy<T, xent::ProbabilityTerms>>(p))     \
    XENT_FUSED_PROBABILITIES(                                                                    \
        cluster_##DTYPE,                                                                         \
        XENT_CLUSTER(xent::fused<xent::ClusterStrategy<T, xent::ProbabilityTerms>>(p)))

XENT_FUSED_PROBABILITIES_OF(f32, float)
XENT_FUSED_PROBABILITIES_OF(f16, __half)
XENT_FUSED_PROBABILITIES_OF(bf16, __nv_bfloat16)
