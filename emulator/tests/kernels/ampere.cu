// Sums of squares of rows, through a ring of asynchronous copies.
//
// Computes: sums[r] = the sum over c of input[r][c]^2.
// Shapes: [rows, columns] with a row stride that is a multiple of 4, aligned to 16 bytes; any columns.
// Traffic: each element is read once, 16 bytes at a time; what lies between rows is not read.
// Parallelism: block b takes rows b, b + gridDim.x, ...
// Invariants: every thread commits one group for every tile, empty ones behind the last, so that the
//     number of groups to wait for is a constant.
#include "ptx.cuh"

constexpr uint32_t kThreads = 128;
constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kStages = 3;
constexpr uint32_t kTile = 4 * kThreads;

extern "C" __global__ void __launch_bounds__(kThreads)
    square_sums(const float *input, float *sums, uint32_t rows, uint32_t columns, uint32_t stride) {
    __shared__ alignas(16) float tiles[kStages][kTile];
    __shared__ float warp_sums[kWarps];
    const uint32_t thread = threadIdx.x;
    const uint32_t tile_count = (columns + kTile - 1) / kTile;

    for (uint32_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float *from = input + size_t(row) * stride;
        // This thread's 16 bytes of a tile, zero behind the row's end.
        auto copy = [&](uint32_t tile) {
            const uint32_t column = tile * kTile + 4 * thread;
            if (tile < tile_count) {
                const uint32_t left = column < columns ? min(columns - column, 4u) : 0;
                // Where nothing is read, the address is still to be a valid one.
                copy_async(&tiles[tile % kStages][4 * thread], left > 0 ? from + column : from,
                           sizeof(float) * left);
            }
            copy_commit();
        };
        for (uint32_t tile = 0; tile < kStages - 1; ++tile) copy(tile);
        float sum = 0.0f;
        for (uint32_t tile = 0; tile < tile_count; ++tile) {
            copy_wait<kStages - 2>();
            // All threads' parts of this tile are there, and all have read the tile before it, which
            // the next copy overwrites.
            __syncthreads();
            copy(tile + kStages - 1);
            // In another order than that of the copies, which makes the accesses conflict-free.
            for (uint32_t at = thread; at < kTile; at += kThreads) {
                const float value = tiles[tile % kStages][at];
                sum += value * value;
            }
        }
        for (uint32_t distance = 16; distance > 0; distance /= 2) {
            sum += __shfl_xor_sync(0xffffffff, sum, distance);
        }
        if (thread % 32 == 0) warp_sums[thread / 32] = sum;
        // All warps have written their sums, which thread 0 reads, and have read the last tiles, which
        // the next row overwrites.
        __syncthreads();
        if (thread == 0) {
            float total = 0.0f;
            for (uint32_t warp = 0; warp < kWarps; ++warp) total += warp_sums[warp];
            sums[row] = total;
        }
        // The next row's first tile has a barrier before the sums are overwritten.
    }
}
