// Scales rows and sums them, through a ring of bulk copies.
//
// Computes: output[r][c] = scale * input[r][c], and sums[r], the sum of row r of the input.
// Shapes: [rows, columns], packed and aligned to 16 bytes; columns a multiple of 4, at least 4.
// Traffic: each element is read once and written once, by bulk copies alone.
// Parallelism: persistent blocks, block b takes rows b, b + gridDim.x, ... The last warp fills the
//     ring, the others empty it.
// Invariants: the n-th tile of a block lies in stage n % kStages; that stage is then in its phase
//     n / kStages, whose parity all waits name.
#include "ptx.cuh"

constexpr uint32_t kStages = 3;
constexpr uint32_t kOutputs = 2;
constexpr uint32_t kConsumerWarps = 4;
constexpr uint32_t kConsumers = 32 * kConsumerWarps;
constexpr uint32_t kTile = 4 * kConsumers;
// Barrier 0 is that of all threads.
constexpr uint32_t kConsumerBarrier = 1;

// Where a block is in its ring.
struct Place {
    uint32_t stage = 0;
    uint32_t parity = 0;

    __device__ __forceinline__ void next() {
        stage += 1;
        if (stage == kStages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

extern "C" __global__ void __launch_bounds__(kConsumers + 32)
    scale_rows(const float *input, float *output, float *sums, float scale, uint32_t rows,
               uint32_t columns) {
    __shared__ alignas(128) float tiles[kStages][kTile];
    __shared__ alignas(128) float results[kOutputs][kTile];
    __shared__ alignas(8) uint64_t full[kStages];
    __shared__ alignas(8) uint64_t empty[kStages];
    __shared__ float warp_sums[kConsumerWarps];

    if (threadIdx.x == 0) {
        for (uint32_t stage = 0; stage < kStages; ++stage) {
            // The producer, who says how many bytes come.
            mbarrier_init(&full[stage], 1);
            mbarrier_init(&empty[stage], kConsumerWarps);
        }
        mbarrier_init_fence();
    }
    // Thread 0 has initialised the mbarriers; all threads use them below.
    __syncthreads();

    Place at;
    const uint32_t thread = threadIdx.x;
    const uint32_t warp = thread / 32;
    const uint32_t lane = thread % 32;
    if (warp == kConsumerWarps) {
        if (lane != 0) return;
        for (uint32_t row = blockIdx.x; row < rows; row += gridDim.x) {
            const float *from = input + size_t(row) * columns;
            for (uint32_t first = 0; first < columns; first += kTile) {
                const uint32_t bytes = sizeof(float) * min(kTile, columns - first);
                // The consumers have read the tile that was here kStages tiles ago.
                mbarrier_wait(&empty[at.stage], at.parity ^ 1);
                mbarrier_expect(&full[at.stage], bytes);
                bulk_load(tiles[at.stage], from + first, bytes, &full[at.stage]);
                at.next();
            }
        }
        return;
    }

    uint32_t out = 0;
    for (uint32_t row = blockIdx.x; row < rows; row += gridDim.x) {
        float *to = output + size_t(row) * columns;
        float sum = 0.0f;
        for (uint32_t first = 0; first < columns; first += kTile) {
            const uint32_t width = min(kTile, columns - first);
            float4 values = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            mbarrier_wait(&full[at.stage], at.parity);
            if (4 * thread < width) {
                values = *reinterpret_cast<const float4 *>(&tiles[at.stage][4 * thread]);
            }
            // All lanes have read the tile; the producer may overwrite it after the last arrival.
            async_proxy_fence();
            __syncwarp();
            if (lane == 0) mbarrier_arrive(&empty[at.stage]);
            sum += values.x + values.y + values.z + values.w;

            // Thread 0 issued all stores: the last but one, from this buffer, has read it.
            if (thread == 0) bulk_wait_read<kOutputs - 1>();
            // Thread 0 has waited; all consumers overwrite the buffer.
            barrier_sync(kConsumerBarrier, kConsumers);
            if (4 * thread < width) {
                *reinterpret_cast<float4 *>(&results[out][4 * thread]) =
                    make_float4(scale * values.x, scale * values.y, scale * values.z,
                                scale * values.w);
            }
            // Before the barrier, so that each thread's writes are there for the copy engine.
            async_proxy_fence();
            // All consumers have written the buffer; the bulk store reads it.
            barrier_sync(kConsumerBarrier, kConsumers);
            if (thread == 0) {
                bulk_store(to + first, results[out], sizeof(float) * width);
                bulk_commit();
            }
            at.next();
            out = (out + 1) % kOutputs;
        }
        for (uint32_t distance = 16; distance > 0; distance /= 2) {
            sum += __shfl_xor_sync(0xffffffff, sum, distance);
        }
        if (lane == 0) warp_sums[warp] = sum;
        // All warps have written their sums; thread 0 reads them, and is at the barriers of the next
        // row's first tile before anybody writes the next ones.
        barrier_sync(kConsumerBarrier, kConsumers);
        if (thread == 0) {
            float total = 0.0f;
            for (uint32_t other = 0; other < kConsumerWarps; ++other) total += warp_sums[other];
            sums[row] = total;
        }
    }
    // Shared memory is gone when the block ends: the last stores have read it.
    if (thread == 0) bulk_wait_read<0>();
}
