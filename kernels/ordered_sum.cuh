// The scalar loss: the sum of all row losses, within the launch that computes them, in an order
// that depends on the number of rows alone: not on the grid, the block size, or who is first.
//
// Parallelism: rows form chunks of XENT_CHUNK_ROWS. Whoever finishes a chunk's last row sums the
// chunk with one warp; whoever finishes the last chunk sums the chunks. Tickets count who is done
// and wrap to 0 by themselves, so that the same launch can be replayed.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "arithmetic.cuh"
#include "reduce.cuh"

namespace xent {

// Each lane adds every 32nd value, then the lanes are added. Read past L1: other blocks wrote them.
__device__ __forceinline__ float warp_sum_in_order(const float *values, uint32_t count) {
    float sum = 0.0f;
#pragma unroll 8
    for (uint32_t i = threadIdx.x % kWarpSize; i < count; i += kWarpSize) {
        sum = add_rn(sum, __ldcg(values + i));
    }
    return warp_sum(sum);
}

// Whether this warp is the last of `parties` to come here; the same answer in all its lanes. What
// other parties wrote before they came is then visible to all lanes.
__device__ __forceinline__ bool is_last_warp(uint32_t *ticket, uint32_t parties) {
    uint32_t earlier = 0;
    if (threadIdx.x % kWarpSize == 0) {
        __threadfence();  // this warp's result is visible before its ticket counts
        earlier = atomicInc(ticket, parties - 1);
        __threadfence();  // the others' results are read after their tickets
    }
    // Lane 0's fence comes before what the other lanes read next; a shuffle orders no memory.
    __syncwarp();
    return __shfl_sync(kFullMask, earlier, 0) == parties - 1;
}

// Called by all lanes of one warp, after its lane 0 has written the row's share.
__device__ __forceinline__ void count_row(const XentFused &p, uint64_t row) {
    const uint64_t chunk = row / XENT_CHUNK_ROWS;
    const uint64_t chunks = (p.rows + XENT_CHUNK_ROWS - 1) / XENT_CHUNK_ROWS;
    const uint64_t first = chunk * XENT_CHUNK_ROWS;
    const uint32_t rows = uint32_t(min(uint64_t(XENT_CHUNK_ROWS), p.rows - first));
    if (!is_last_warp(p.chunk_tickets + chunk, rows)) return;
    const float sum = warp_sum_in_order(p.row_shares + first, rows);
    if (threadIdx.x % kWarpSize == 0) p.chunk_sums[chunk] = sum;
    if (!is_last_warp(&p.workspace->loss_ticket, uint32_t(chunks))) return;
    const float loss = warp_sum_in_order(p.chunk_sums, uint32_t(chunks));
    if (threadIdx.x % kWarpSize == 0) *p.loss = loss;
}

}  // namespace xent
