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

// What is to be summed travels as a word that is never 0, so that a reader sees by the word itself whether it is
// there: its writer needs no fence, which would wait for all that the writer's warp has stored, a gradient among it.
// The reader leaves 0 for the next launch.
constexpr uint32_t kSign = 0x80000000u;

// -0 becomes 0 first: then no number's word, with the other sign, is 0.
__device__ __forceinline__ void leave_value(uint32_t *at, float value) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(at)),
                 "r"(__float_as_uint(add_rn(value, 0.0f)) ^ kSign)
                 : "memory");
}
__device__ __forceinline__ float value_of(uint32_t word) { return __uint_as_float(word ^ kSign); }

__device__ __forceinline__ uint32_t load_word(const uint32_t *at) {
    uint32_t word;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];"
                 : "=r"(word)
                 : "l"(__cvta_generic_to_global(at))
                 : "memory");
    return word;
}
__device__ __forceinline__ void clear_word(uint32_t *at) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(at)), "r"(0u) : "memory");
}

// Of values that have all been left, or are on their way: each lane adds every 32nd, then the lanes are added. Many
// of a lane's are loaded together, because the whole launch waits for them; twice as many would be more code to fetch
// for few rows, and more registers than some kernels have.
__device__ __forceinline__ float warp_take_sum(uint32_t *words, uint32_t count) {
    constexpr uint32_t kAtOnce = 16;
    float sum = 0.0f;
    for (uint32_t first = threadIdx.x % kWarpSize; first < count; first += kAtOnce * kWarpSize) {
        uint32_t *const mine = words + first;
        const uint32_t left = count - first;
        uint32_t each[kAtOnce];
        bool is_missing;
        do {
            is_missing = false;
#pragma unroll
            for (uint32_t i = 0; i < kAtOnce; ++i) {
                each[i] = i * kWarpSize < left ? load_word(mine + i * kWarpSize) : kSign;
            }
#pragma unroll
            for (uint32_t i = 0; i < kAtOnce; ++i) is_missing |= each[i] == 0;
        } while (is_missing);
#pragma unroll
        for (uint32_t i = 0; i < kAtOnce; ++i) sum = add_rn(sum, value_of(each[i]));
#pragma unroll
        for (uint32_t i = 0; i < kAtOnce; ++i) {
            if (i * kWarpSize < left) clear_word(mine + i * kWarpSize);
        }
    }
    return warp_sum(sum);
}

// Whether what is counted has to be seen by whoever comes last: then a fence goes before each ticket. What
// travels as a word needs none.
enum class Fence { kNone, kBeforeTicket };

// Brings `mine` of the `parties` of a group. Returns, in lane 0, how many came earlier; until that is asked for,
// nobody waits.
__device__ __forceinline__ uint32_t take_ticket(Fence fence, uint32_t *ticket, uint32_t mine, uint32_t parties) {
    // What this warp's lanes wrote comes before lane 0's ticket.
    __syncwarp();
    if (mine == parties || threadIdx.x % kWarpSize != 0) return 0;
    if (fence != Fence::kNone) __threadfence();  // what was counted, before the ticket
    return atomicAdd(ticket, mine);
}

// Whether the warp that took that ticket is the last of its group.
__device__ __forceinline__ bool is_last_warp(Fence fence, uint32_t *ticket, uint32_t earlier, uint32_t mine,
                                             uint32_t parties) {
    if (__shfl_sync(kFullMask, earlier, 0) + mine != parties) return false;
    if (threadIdx.x % kWarpSize == 0) {
        if (fence != Fence::kNone) __threadfence();  // the others' counts are read after their tickets
        // Nobody else will come: 0 for the next launch.
        if (mine != parties) atomicExch(ticket, 0u);
    }
    // Lane 0's fence comes before what the other lanes read next; a shuffle orders no memory.
    __syncwarp();
    return true;
}

// The chunk of some rows.
struct RowChunk {
    uint64_t index;
    uint64_t first;
    uint32_t rows;

    __device__ __forceinline__ RowChunk(const XentRowSums &sums, uint64_t row)
        : index(row / XENT_CHUNK_ROWS),
          first(index * XENT_CHUNK_ROWS),
          rows(uint32_t(min(uint64_t(XENT_CHUNK_ROWS), sums.rows - first))) {}
};

__device__ __forceinline__ Fence fence_of(const XentRowSums &sums) {
    return sums.correct != nullptr ? Fence::kBeforeTicket : Fence::kNone;
}

// Called by all lanes of one warp, after they have left the shares of `mine` rows of the chunk that has
// `row`, or counted them among the correct ones. What it returns is for `sum_if_last`, of the same rows.
__device__ __forceinline__ uint32_t count_rows(const XentRowSums &sums, uint64_t row, uint32_t mine) {
    const RowChunk chunk(sums, row);
    return take_ticket(fence_of(sums), sums.chunk_tickets + chunk.index, mine, chunk.rows);
}

// Called by the same warp, later: what its lanes do in between is not behind the ticket's way to memory and back.
__device__ __forceinline__ void sum_if_last(const XentRowSums &sums, uint64_t row, uint32_t mine, uint32_t earlier) {
    const bool first_lane = threadIdx.x % kWarpSize == 0;
    const uint64_t chunks = (sums.rows + XENT_CHUNK_ROWS - 1) / XENT_CHUNK_ROWS;
    const Fence fence = fence_of(sums);
    const RowChunk chunk(sums, row);
    if (!is_last_warp(fence, sums.chunk_tickets + chunk.index, earlier, mine, chunk.rows)) return;
    float loss = 0.0f;
    if (sums.loss != nullptr) loss = warp_take_sum(sums.row_shares + chunk.first, chunk.rows);
    // Of few rows, there is one chunk: nothing is waited for again.
    if (chunks != 1) {
        if (sums.loss != nullptr && first_lane) leave_value(sums.chunk_sums + chunk.index, loss);
        uint32_t *const ticket = &sums.workspace->chunk_ticket;
        const uint32_t all = uint32_t(chunks);
        if (!is_last_warp(fence, ticket, take_ticket(fence, ticket, 1, all), 1, all)) return;
        if (sums.loss != nullptr) loss = warp_take_sum(sums.chunk_sums, all);
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
