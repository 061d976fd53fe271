#include "normalizer.cuh"

extern "C" __global__ void __launch_bounds__(XENT_NORMALIZER_THREADS)
    xent_normalizer(const __grid_constant__ XentNormalizer p) {
    xent::normalizer(p);
}
