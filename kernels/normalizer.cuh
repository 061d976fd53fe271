// What 'mean' divides by, where the host cannot know it: the rows that are not ignored.
//
// Computes: workspace->inverse_normalizer = 1 / #{i : target_i != ignore_index}; inf if none is.
// Traffic: the targets once. Parallelism: a grid-stride loop; integer counts, so any order gives
// the same result; the last block to finish writes it.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "reduce.cuh"
#include "targets.cuh"

namespace xent {

__device__ __forceinline__ void normalizer(const XentNormalizer &p) {
    __shared__ uint32_t warp_counts[XENT_NORMALIZER_THREADS / kWarpSize];
    uint32_t counted = 0;
    const uint64_t stride = uint64_t(gridDim.x) * blockDim.x;
    for (uint64_t row = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; row < p.rows;
         row += stride) {
        counted += is_ignored(p.targets, target_value(p.targets, row)) ? 0 : 1;
    }
    counted = warp_sum(counted);
    if (threadIdx.x % kWarpSize == 0) warp_counts[threadIdx.x / kWarpSize] = counted;
    // Every warp wrote its count; thread 0 reads them all.
    __syncthreads();
    if (threadIdx.x != 0) return;
    uint64_t block_count = 0;
    for (uint32_t warp = 0; warp < blockDim.x / kWarpSize; ++warp) block_count += warp_counts[warp];

    auto *total = reinterpret_cast<unsigned long long *>(&p.workspace->counted_rows);
    atomicAdd(total, static_cast<unsigned long long>(block_count));
    __threadfence();  // the count is added before the ticket says so
    if (atomicInc(&p.workspace->normalizer_ticket, gridDim.x - 1) == gridDim.x - 1) {
        __threadfence();  // the total is read after all tickets
        const uint64_t rows = atomicExch(total, 0ull);
        p.workspace->inverse_normalizer = __fdiv_rn(1.0f, float(rows));
    }
}

}  // namespace xent
