// Between blocks of a grid.
#include "ptx.cuh"

constexpr uint32_t kThreads = 64;
constexpr uint32_t kWarps = kThreads / 32;

// Known to thread 0. The caller has a barrier between two calls.
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float warp_sums[kWarps];
    for (uint32_t distance = 16; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffff, value, distance);
    }
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
    // All warps have written their sums; thread 0 reads them.
    __syncthreads();
    float total = 0.0f;
    if (threadIdx.x == 0) {
        for (uint32_t warp = 0; warp < kWarps; ++warp) total += warp_sums[warp];
    }
    return total;
}

// sums[r] = the sum of row r, which gridDim.x blocks share; r is blockIdx.y. The last of them to
// come adds their parts, in their order, so that the bits do not depend on who is last.
// parts is [rows, gridDim.x]; tickets is [rows], 0 before the launch and after it.
extern "C" __global__ void __launch_bounds__(kThreads)
    split_row_sums(const float *input, float *sums, float *parts, uint32_t *tickets,
                   uint32_t columns) {
    __shared__ bool is_last;
    const uint32_t row = blockIdx.y;
    const uint32_t blocks = gridDim.x;
    const float *from = input + size_t(row) * columns;
    float *row_parts = parts + size_t(row) * blocks;
    float sum = 0.0f;
    for (uint32_t column = blockIdx.x * kThreads + threadIdx.x; column < columns;
         column += blocks * kThreads) {
        sum += from[column];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        row_parts[blockIdx.x] = sum;
        // This block's part is written before its ticket is taken.
        __threadfence();
        // Wraps to 0 at the last ticket.
        is_last = atomicInc(&tickets[row], blocks - 1) == blocks - 1;
        // All tickets were taken before the parts are read.
        __threadfence();
    }
    // Thread 0 has written is_last and read block_sum's storage; all read, and the last overwrite it.
    __syncthreads();
    if (!is_last) return;
    // Volatile: not from this multiprocessor's cache.
    const volatile float *all = row_parts;
    float part = 0.0f;
    for (uint32_t other = threadIdx.x; other < blocks; other += kThreads) part += all[other];
    part = block_sum(part);
    if (threadIdx.x == 0) sums[row] = part;
}

// prefixes[b] = the sum of all elements before block b's, of kThreads elements each; n is a multiple
// of kThreads. A block that finds an earlier block's flag takes its sum, or else forms it anew: so
// nobody waits for a block that may not run yet. sums and flags have one element a block; flags are
// 0 before the launch.
extern "C" __global__ void __launch_bounds__(kThreads)
    block_prefixes(const int32_t *input, int32_t *prefixes, int32_t *sums, uint32_t *flags) {
    __shared__ int32_t total;
    const int32_t value = input[blockIdx.x * kThreads + threadIdx.x];
    if (threadIdx.x == 0) total = 0;
    // Thread 0 has cleared the total; all add to it.
    __syncthreads();
    atomicAdd(&total, value);
    // All have added; thread 0 reads.
    __syncthreads();
    if (threadIdx.x != 0) return;
    sums[blockIdx.x] = total;
    // The sum is written before the flag.
    store_release(&flags[blockIdx.x], 1);
    int32_t prefix = 0;
    for (uint32_t block = 0; block < blockIdx.x; ++block) {
        // The sum is read after the flag.
        if (load_acquire(&flags[block]) != 0) {
            prefix += sums[block];
        } else {
            for (uint32_t i = 0; i < kThreads; ++i) prefix += input[block * kThreads + i];
        }
    }
    prefixes[blockIdx.x] = prefix;
}
