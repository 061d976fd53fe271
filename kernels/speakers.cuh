// Which lanes of a warp say what is known of which rows.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "reduce.cuh"

namespace xent {

// Rows of one chunk, each with a lane that speaks for it.
struct Speakers {
    uint64_t first;  // one of the chunk
    uint32_t rows;   // that are counted now: those rows, and others of the chunk that were said before
    uint64_t row;    // this lane's, if it speaks
    bool speaks;

    // Lane 0 for one row, of those that lie `step` apart below `rows`. A ticket is waited for: the last one of
    // a chunk counts for those before it, too.
    __device__ __forceinline__ static Speakers first_lane(uint64_t row, uint64_t step, uint64_t rows) {
        const uint64_t next = row + step;
        const bool is_last = next >= rows || next / XENT_CHUNK_ROWS != row / XENT_CHUNK_ROWS;
        const uint32_t in_chunk = uint32_t(row % XENT_CHUNK_ROWS);
        const uint32_t apart = uint32_t(min(step, uint64_t(XENT_CHUNK_ROWS)));
        return {row, is_last ? in_chunk / apart + 1 : 0, row, threadIdx.x % kWarpSize == 0};
    }
    // A lane a row.
    __device__ __forceinline__ static Speakers each_lane(uint64_t first, uint32_t rows) {
        const uint32_t lane = threadIdx.x % kWarpSize;
        return {first, rows, first + lane, lane < rows};
    }
    // A lane for each of the rows.
    __device__ __forceinline__ static Speakers of_groups(uint64_t first, uint32_t rows,
                                                         uint64_t row, bool speaks) {
        return {first, rows, row, speaks};
    }
};

}  // namespace xent
