// What follows from all rows, within the launch that computes them: the scalar loss, summed in an
// order that depends on the number of rows alone, not on the grid, the block size, or who is first;
// and how many predictions are correct.
//
// Parallelism: rows form chunks of XENT_CHUNK_ROWS. Whoever finishes a chunk's last row sums the
// chunk with one warp; whoever finishes the last chunk sums the chunks. Tickets count who is done;
// whoever comes last sets them back to 0, so that the same launch can be replayed.
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

// Adds to a ticket after all that this thread wrote, or has seen, is visible to whoever reads the ticket.
__device__ __forceinline__ uint32_t add_released(uint32_t *ticket, uint32_t more) {
    uint32_t earlier;
    asm volatile("atom.add.release.gpu.global.u32 %0, [%1], %2;"
                 : "=r"(earlier)
                 : "l"(__cvta_generic_to_global(ticket)), "r"(more)
                 : "memory");
    return earlier;
}

// Whether this warp is the last to come with parties of a group of `parties`, of which it brings `mine`.
// A row pays for it while its block stays: a fence before the ticket, and another for the last one alone.
__device__ __forceinline__ bool is_last_warp(uint32_t *ticket, uint32_t mine, uint32_t parties) {
    uint32_t earlier = 0;
    // What this warp's lanes wrote is visible to lane 0, and to all with its ticket.
    __syncwarp();
    if (mine != parties && threadIdx.x % kWarpSize == 0) earlier = add_released(ticket, mine);
    if (__shfl_sync(kFullMask, earlier, 0) + mine != parties) return false;
    if (threadIdx.x % kWarpSize == 0) {
        // Nobody else will come: 0 for the next launch.
        if (mine != parties) atomicExch(ticket, 0u);
        __threadfence();  // the others' results are read after their tickets
    }
    // Lane 0's fence comes before what the other lanes read next; a shuffle orders no memory.
    __syncwarp();
    return true;
}

// Called by all lanes of one warp, after they have written the shares of `mine` rows of the chunk that has
// `row`, or counted them among the correct ones.
__device__ __forceinline__ void count_rows(const XentRowSums &sums, uint64_t row, uint32_t mine) {
    const bool first_lane = threadIdx.x % kWarpSize == 0;
    const uint64_t chunk = row / XENT_CHUNK_ROWS;
    const uint64_t chunks = (sums.rows + XENT_CHUNK_ROWS - 1) / XENT_CHUNK_ROWS;
    const uint64_t first = chunk * XENT_CHUNK_ROWS;
    const uint32_t rows = uint32_t(min(uint64_t(XENT_CHUNK_ROWS), sums.rows - first));
    if (!is_last_warp(sums.chunk_tickets + chunk, mine, rows)) return;
    float loss = 0.0f;
    if (sums.loss != nullptr) loss = warp_sum_in_order(sums.row_shares + first, rows);
    // Of few rows, there is one chunk: nothing is waited for again.
    if (chunks != 1) {
        if (sums.loss != nullptr && first_lane) sums.chunk_sums[chunk] = loss;
        if (!is_last_warp(&sums.workspace->chunk_ticket, 1, uint32_t(chunks))) return;
        if (sums.loss != nullptr) loss = warp_sum_in_order(sums.chunk_sums, uint32_t(chunks));
    }
    if (sums.loss != nullptr && first_lane) *sums.loss = loss;
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
