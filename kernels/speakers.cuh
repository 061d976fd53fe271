// Which lanes of a warp say what is known of which rows.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "reduce.cuh"

namespace xent {

// Rows [first, first + rows) of one chunk, each with a lane that speaks for it.
struct Speakers {
    uint64_t first;
    uint32_t rows;
    uint64_t row;  // this lane's, if it speaks
    bool speaks;

    // Lane 0 for one row.
    __device__ __forceinline__ static Speakers first_lane(uint64_t row) {
        return {row, 1, row, threadIdx.x % kWarpSize == 0};
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
