#include "fused_loss.cuh"

// Without the 1, ptxas for sm_90 aims at more blocks of general_f32 than the plan does, and spills.
#define XENT_FUSED_BLOCK(NAME, T, TERMS, THREADS)                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                     \
        xent_fused_block_##NAME(const __grid_constant__ XentFused p) {                           \
        xent::fused_block<T, xent::TERMS>(p);                                                    \
    }

// The plain kernels know neither class weights in the smoothing term nor a cap on the logits; the
// general ones test for both, once a pack.
XENT_FUSED_BLOCK(f32, float, PlainTerms, XENT_MAX_THREADS)
XENT_FUSED_BLOCK(f16, __half, PlainTerms, XENT_MAX_THREADS)
XENT_FUSED_BLOCK(bf16, __nv_bfloat16, PlainTerms, XENT_MAX_THREADS)
XENT_FUSED_BLOCK(general_f32, float, ClassTerms, XENT_MAX_GENERAL_THREADS)
XENT_FUSED_BLOCK(general_f16, __half, ClassTerms, XENT_MAX_GENERAL_THREADS)
XENT_FUSED_BLOCK(general_bf16, __nv_bfloat16, ClassTerms, XENT_MAX_GENERAL_THREADS)
