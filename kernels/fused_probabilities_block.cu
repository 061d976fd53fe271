#include "fused_loss.cuh"

// Target probabilities, of any dtype for each dtype of logits.
#define XENT_FUSED_PROBABILITIES_BLOCK(NAME, T)                                                  \
    extern "C" __global__ void __launch_bounds__(XENT_MAX_PROBABILITIES_THREADS, 1)              \
        xent_fused_probabilities_block_##NAME(const __grid_constant__ XentFused p) {             \
        xent::fused_block<T, xent::ProbabilityTerms>(p);                                         \
    }

XENT_FUSED_PROBABILITIES_BLOCK(f32, float)
XENT_FUSED_PROBABILITIES_BLOCK(f16, __half)
XENT_FUSED_PROBABILITIES_BLOCK(bf16, __nv_bfloat16)
