#include "fused_loss.cuh"
#include "strategy_block.cuh"

// Two blocks a multiprocessor at least: what the plan counts on.
#define XENT_FUSED_BLOCK(NAME, T, TERMS)                                                         \
    extern "C" __global__ void __launch_bounds__(XENT_MAX_BLOCK_THREADS, 2)                      \
        xent_##NAME(const __grid_constant__ XentFused p) {                                       \
        xent::fused<xent::BlockStrategy<T, xent::TERMS>>(p);                                     \
    }

// The plain kernels know neither class weights in the smoothing term nor a cap on the logits; the
// general ones test for both, once a pack.
XENT_FUSED_BLOCK(fused_block_f32, float, PlainTerms)
XENT_FUSED_BLOCK(fused_block_f16, __half, PlainTerms)
XENT_FUSED_BLOCK(fused_block_bf16, __nv_bfloat16, PlainTerms)
XENT_FUSED_BLOCK(fused_general_block_f32, float, ClassTerms)
XENT_FUSED_BLOCK(fused_general_block_f16, __half, ClassTerms)
XENT_FUSED_BLOCK(fused_general_block_bf16, __nv_bfloat16, ClassTerms)
