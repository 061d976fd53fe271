// What follows from all rows, within the launch that computes them: the scalar loss, summed in an
// order that depends on the number of rows alone, not on the grid, the block size, or who is first;
// and how many predictions are correct.
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

// Whether this warp is the last to come with parties of a group of `parties`, of which it brings `mine`.
__device__ __forceinline__ bool is_last_warp(uint32_t *ticket, uint32_t mine, uint32_t parties) {
    uint32_t earlier = 0;
    // What this warp's lanes wrote is visible before its ticket counts: to lane 0 first, ...
    __syncwarp();
    if (threadIdx.x % kWarpSize == 0) {
        __threadfence();  // ... then to all
        if (mine != parties) {
            earlier = atomicAdd(ticket, mine);
            // Nobody else will come: 0 for the next launch.
            if (earlier + mine == parties) atomicExch(ticket, 0u);
        }
        __threadfence();  // the others' results are read after their tickets
    }
    // Lane 0's fence comes before what the other lanes read next; a shuffle orders no memory.
    __syncwarp();
    return __shfl_sync(kFullMask, earlier, 0) + mine == parties;
}

// Called by all lanes of one warp, after they have written the shares of `mine` rows from `row` on, all of
// one chunk, or counted them among the correct ones.
__device__ __forceinline__ void count_rows(const XentRowSums &sums, uint64_t row, uint32_t mine) {
    const bool first_lane = threadIdx.x % kWarpSize == 0;
    const uint64_t chunk = row / XENT_CHUNK_ROWS;
    const uint64_t chunks = (sums.rows + XENT_CHUNK_ROWS - 1) / XENT_CHUNK_ROWS;
    const uint64_t first = chunk * XENT_CHUNK_ROWS;
    const uint32_t rows = uint32_t(min(uint64_t(XENT_CHUNK_ROWS), sums.rows - first));
    if (!is_last_warp(sums.chunk_tickets + chunk, mine, rows)) return;
    if (sums.loss != nullptr) {
        const float sum = warp_sum_in_order(sums.row_shares + first, rows);
        if (first_lane) sums.chunk_sums[chunk] = sum;
    }
    if (!is_last_warp(&sums.workspace->chunk_ticket, 1, uint32_t(chunks))) return;
    if (sums.loss != nullptr) {
        const float loss = warp_sum_in_order(sums.chunk_sums, uint32_t(chunks));
        if (first_lane) *sums.loss = loss;
    }
    if (sums.correct != nullptr && first_lane) {
        auto *counted = reinterpret_cast<unsigned long long *>(&sums.workspace->correct);
        *sums.correct = atomicExch(counted, 0ull);
    }
}

// Called by the thread that speaks for the row, before it is counted.
__device__ __forceinline__ void count_correct(const XentRowSums &sums) {
    atomicAdd(reinterpret_cast<unsigned long long *>(&sums.workspace->correct), 1ull);
}

}  // namespace xent
