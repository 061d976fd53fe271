#include "fused_loss.cuh"
#include "strategy_block.cuh"
#include "strategy_cluster.cuh"
#include "strategy_warp.cuh"

// Target probabilities, of any dtype for each dtype of logits. Of long rows one block a multiprocessor at least: with
// fewer registers they would spill.
#define XENT_FUSED_PROBABILITIES(NAME, THREADS, BLOCKS, ...)                                     \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                \
        xent_fused_probabilities_##NAME(const __grid_constant__ XentFused p) {                   \
        __VA_ARGS__;                                                                             \
    }

#define XENT_FUSED_PROBABILITIES_OF(DTYPE, T)                                                    \
    XENT_FUSED_PROBABILITIES(warp_##DTYPE, XENT_WARP_BLOCK_THREADS, 4,                           \
                             xent::fused<xent::WarpStrategy<T, xent::ProbabilityTerms>>(p))      \
    XENT_FUSED_PROBABILITIES(block_##DTYPE, XENT_MAX_BLOCK_THREADS, 1,                           \
                             xent::fused<xent::BlockStrategy<T, xent::ProbabilityTerms>>(p))     \
    XENT_FUSED_PROBABILITIES(                                                                    \
        cluster_##DTYPE, XENT_MAX_BLOCK_THREADS, 1,                                              \
        XENT_CLUSTER(xent::fused<xent::ClusterStrategy<T, xent::ProbabilityTerms>>(p)))

XENT_FUSED_PROBABILITIES_OF(f32, float)
XENT_FUSED_PROBABILITIES_OF(f16, __half)
XENT_FUSED_PROBABILITIES_OF(bf16, __nv_bfloat16)
