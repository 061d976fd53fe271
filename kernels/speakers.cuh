// Which lanes of a warp say what is known of which rows.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "reduce.cuh"

namespace xent {

// Rows of one chunk, each with a lane that speaks for it.
struct Speakers {
    uint64_t first;
    uint32_t rows;
    uint64_t row;   // this lane's, if it speaks
    bool speaks;
    uint32_t step;  // from a row to the next one of whoever speaks for one at a time, else 0
    uint64_t all;   // rows that there are, for those

    // Lane 0 for one row, and after it for those `step` further on, below `all`.
    __device__ __forceinline__ static Speakers first_lane(uint64_t row, uint32_t step, uint64_t all) {
        return {row, 1, row, threadIdx.x % kWarpSize == 0, step, all};
    }
    // A lane a row.
    __device__ __forceinline__ static Speakers each_lane(uint64_t first, uint32_t rows) {
        const uint32_t lane = threadIdx.x % kWarpSize;
        return {first, rows, first + lane, lane < rows, 0, 0};
    }
    // A lane for each of the rows.
    __device__ __forceinline__ static Speakers of_groups(uint64_t first, uint32_t rows,
                                                         uint64_t row, bool speaks) {
        return {first, rows, row, speaks, 0, 0};
    }

    // How many rows of the chunk are counted now. A ticket is waited for, so the last one of a chunk counts for
    // those before it, too.
    __device__ __forceinline__ uint32_t counted() const {
        if (step == 0) return rows;
        const uint32_t in_chunk = uint32_t(first) % XENT_CHUNK_ROWS;
        const uint32_t apart = min(step, XENT_CHUNK_ROWS);
        const bool is_last = in_chunk + apart >= XENT_CHUNK_ROWS || first + apart >= all;
        return is_last ? in_chunk / apart + 1 : 0;
    }
};

}  // namespace xent
