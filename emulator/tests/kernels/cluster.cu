// Clusters of blocks that share one long row.
//
// Shapes: rows are packed; any columns but where a kernel says otherwise. Clusters of up to
//     kMaxCluster blocks, in one dimension.
// Parallelism: one cluster a row at a time; cluster k takes rows k, k + clusters, ... Block `rank`
//     of a cluster has the rank-th slice of the columns.
// Invariants: no block of a cluster leaves, nor overwrites its shared memory, before its peers have
//     read it and what they send has arrived.
#include "ptx.cuh"

constexpr uint32_t kThreads = 128;
constexpr uint32_t kWarps = kThreads / 32;
constexpr uint32_t kMaxCluster = 8;

// Which columns of a row a block has.
struct Slice {
    uint32_t begin;
    uint32_t end;

    __device__ __forceinline__ Slice(uint32_t columns, uint32_t rank, uint32_t size) {
        const uint32_t width = (columns + size - 1) / size;
        begin = min(columns, rank * width);
        end = min(columns, begin + width);
    }
};

// The block's sum, known to thread 0. The caller has a barrier between two calls.
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

__device__ __forceinline__ float slice_sum(const float *row, Slice slice) {
    float sum = 0.0f;
    for (uint32_t column = slice.begin + threadIdx.x; column < slice.end; column += kThreads) {
        sum += row[column];
    }
    return sum;
}

// output[r][c] = input[r][c] / (the sum of row r): every block reads every block's part.
extern "C" __global__ void __launch_bounds__(kThreads)
    normalize_rows(const float *input, float *output, uint32_t rows, uint32_t columns) {
    __shared__ float part;
    const uint32_t rank = cluster_rank();
    const uint32_t size = cluster_size();
    const Slice slice(columns, rank, size);
    for (uint32_t row = blockIdx.x / size; row < rows; row += gridDim.x / size) {
        const float *from = input + size_t(row) * columns;
        float *to = output + size_t(row) * columns;
        const float mine = block_sum(slice_sum(from, slice));
        if (threadIdx.x == 0) part = mine;
        // All blocks have written their parts; all threads read them.
        cluster_sync();
        float total = 0.0f;
        // In the order of the ranks, so that all blocks find the same bits.
        for (uint32_t other = 0; other < size; ++other) total += cluster_load(&part, other);
        // This block has read its peers' parts, and they have to wait for it, ...
        cluster_arrive();
        for (uint32_t column = slice.begin + threadIdx.x; column < slice.end; column += kThreads) {
            to[column] = from[column] / total;
        }
        // ... as it waits for them before it overwrites its own part, or leaves.
        cluster_wait();
    }
}

// sums[r] = the sum of row r: all blocks send their parts to block 0, which adds them.
extern "C" __global__ void __launch_bounds__(kThreads)
    sum_rows(const float *input, float *sums, uint32_t rows, uint32_t columns) {
    __shared__ float parts[kMaxCluster];
    // Block 0's: all parts are here.
    __shared__ alignas(8) uint64_t full;
    // Every block's: block 0 has read the parts.
    __shared__ alignas(8) uint64_t empty;
    const uint32_t rank = cluster_rank();
    const uint32_t size = cluster_size();
    const Slice slice(columns, rank, size);
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        mbarrier_init(&empty, 1);
        mbarrier_init_fence();
    }
    // All blocks have initialised their mbarriers; their peers use them.
    cluster_sync();

    uint32_t parity = 0;
    for (uint32_t row = blockIdx.x / size; row < rows; row += gridDim.x / size) {
        const float part = block_sum(slice_sum(input + size_t(row) * columns, slice));
        if (threadIdx.x == 0) {
            if (rank == 0) mbarrier_expect(&full, size * sizeof(float));
            cluster_store_async(&parts[rank], part, &full, 0);
            if (rank == 0) {
                mbarrier_wait_cluster(&full, parity);
                float total = 0.0f;
                for (uint32_t other = 0; other < size; ++other) total += parts[other];
                sums[row] = total;
                for (uint32_t other = 0; other < size; ++other) mbarrier_arrive_at(&empty, other);
            }
            // Block 0 has read the parts; the next ones overwrite them. In the last round, this
            // keeps the block until block 0 has sent its last arrival.
            mbarrier_wait_cluster(&empty, parity);
        }
        parity ^= 1;
        // Thread 0 has read block_sum's storage; the next row overwrites it.
        __syncthreads();
    }
}
