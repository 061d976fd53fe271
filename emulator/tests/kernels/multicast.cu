// One block of a cluster reads for all of them.
//
// Computes: output[r][c] = input[r][c] * weights[c].
// Shapes: [rows, columns] and [columns], packed and aligned to 16 bytes; columns a multiple of 4.
//     Clusters of up to 16 blocks, in one dimension.
// Traffic: a cluster reads the weights once, and every element of its rows once.
// Parallelism: one block a row; block 0 of a cluster fills the rings of all of them.
// Invariants: tile t lies in stage t % kStages, which is then in its phase t / kStages. Compile for
//     sm_90a: ptxas refuses multicast copies for the plain sm_90.
#include "ptx.cuh"

constexpr uint32_t kThreads = 128;
constexpr uint32_t kStages = 2;
constexpr uint32_t kTile = 4 * kThreads;

extern "C" __global__ void __launch_bounds__(kThreads)
    weigh_rows(const float *input, const float *weights, float *output, uint32_t rows,
               uint32_t columns) {
    __shared__ alignas(128) float tiles[kStages][kTile];
    __shared__ alignas(8) uint64_t full[kStages];
    // Block 0's: every block has read the tile.
    __shared__ alignas(8) uint64_t empty[kStages];
    const uint32_t rank = cluster_rank();
    const uint32_t size = cluster_size();
    if (threadIdx.x == 0) {
        for (uint32_t stage = 0; stage < kStages; ++stage) {
            mbarrier_init(&full[stage], 1);
            mbarrier_init(&empty[stage], size);
        }
        mbarrier_init_fence();
    }
    // All blocks have initialised their mbarriers; block 0's copies count at them.
    cluster_sync();

    const uint32_t row = blockIdx.x;
    const uint32_t tiles_per_row = (columns + kTile - 1) / kTile;
    // One tile ahead of the one that is used.
    auto request = [&](uint32_t tile) {
        const uint32_t stage = tile % kStages;
        const uint32_t first = tile * kTile;
        const uint32_t bytes = sizeof(float) * min(kTile, columns - first);
        mbarrier_expect(&full[stage], bytes);
        if (rank == 0) {
            // Every block has read the tile that was here before.
            mbarrier_wait_cluster(&empty[stage], (tile / kStages + 1) % 2);
            bulk_load_multicast(tiles[stage], weights + first, bytes, &full[stage],
                                uint16_t((1u << size) - 1));
        }
    };
    if (threadIdx.x == 0) request(0);
    for (uint32_t tile = 0; tile < tiles_per_row; ++tile) {
        const uint32_t stage = tile % kStages;
        if (threadIdx.x == 0 && tile + 1 < tiles_per_row) request(tile + 1);
        mbarrier_wait_cluster(&full[stage], tile / kStages % 2);
        const uint32_t column = tile * kTile + 4 * threadIdx.x;
        if (row < rows && column < columns) {
            const size_t at = size_t(row) * columns + column;
            const float4 w = *reinterpret_cast<const float4 *>(&tiles[stage][4 * threadIdx.x]);
            float4 x = *reinterpret_cast<const float4 *>(input + at);
            x = make_float4(x.x * w.x, x.y * w.y, x.z * w.z, x.w * w.w);
            *reinterpret_cast<float4 *>(output + at) = x;
        }
        async_proxy_fence();
        // All threads have read the tile; block 0 overwrites it after the last block's arrival.
        __syncthreads();
        if (threadIdx.x == 0) mbarrier_arrive_at(&empty[stage], 0);
    }
    // Block 0 stays until all arrivals are there, its peers until its copies are.
    cluster_sync();
}
