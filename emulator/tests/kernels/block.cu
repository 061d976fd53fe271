// Within a block: reductions, shuffles, named barriers, vectors.
#include "ptx.cuh"

constexpr uint32_t kWarpSize = 32;
constexpr uint32_t kMaxWarps = 32;
constexpr uint32_t kFullMask = 0xffffffff;

// ---------------------------------------------------------------- reductions through shared memory

// Known to all threads. The caller has a barrier between two calls with the same storage.
template <class Combine>
__device__ __forceinline__ float block_reduce(float value, float neutral, float *storage,
                                              Combine combine) {
    const uint32_t lane = threadIdx.x % kWarpSize;
    for (uint32_t distance = kWarpSize / 2; distance > 0; distance /= 2) {
        value = combine(value, __shfl_xor_sync(kFullMask, value, distance));
    }
    if (lane == 0) storage[threadIdx.x / kWarpSize] = value;
    // All warps have written their results; all read them.
    __syncthreads();
    value = lane < blockDim.x / kWarpSize ? storage[lane] : neutral;
    for (uint32_t distance = kWarpSize / 2; distance > 0; distance /= 2) {
        value = combine(value, __shfl_xor_sync(kFullMask, value, distance));
    }
    return value;
}

// maxima[r] = the largest of row r, excess[r] = the sum over c of maxima[r] - input[r][c].
// [rows, columns] packed, at least one column; block b takes rows b, b + gridDim.x, ...; whole warps.
extern "C" __global__ void row_statistics(const float *input, float *maxima, float *excess,
                                          uint32_t rows, uint32_t columns) {
    __shared__ float storage[kMaxWarps];
    for (uint32_t row = blockIdx.x; row < rows; row += gridDim.x) {
        const float *from = input + size_t(row) * columns;
        float max = -INFINITY;
        for (uint32_t column = threadIdx.x; column < columns; column += blockDim.x) {
            max = fmaxf(max, from[column]);
        }
        max = block_reduce(max, -INFINITY, storage, [](float a, float b) { return fmaxf(a, b); });
        float sum = 0.0f;
        for (uint32_t column = threadIdx.x; column < columns; column += blockDim.x) {
            sum += max - from[column];
        }
        // All warps have read the maxima; the sums overwrite them.
        __syncthreads();
        sum = block_reduce(sum, 0.0f, storage, [](float a, float b) { return a + b; });
        if (threadIdx.x == 0) {
            maxima[row] = max;
            excess[row] = sum;
        }
        // All warps have read the sums; the next row's maxima overwrite them.
        __syncthreads();
    }
}

// ---------------------------------------------------------------- shuffles with masks

// sums[r] = the sum of row r of at most 32 columns. One warp a row; lanes without a column stay out.
extern "C" __global__ void short_rows(const int32_t *input, int32_t *sums, uint32_t rows,
                                      uint32_t columns) {
    const uint32_t lane = threadIdx.x % kWarpSize;
    const uint32_t row = (blockIdx.x * blockDim.x + threadIdx.x) / kWarpSize;
    // Whole warps.
    if (row >= rows) return;
    const uint32_t members = __ballot_sync(kFullMask, lane < columns);
    if (lane >= columns) return;
    int32_t sum = input[size_t(row) * columns + lane];
    for (uint32_t distance = kWarpSize / 2; distance > 0; distance /= 2) {
        // A lane that is not there must not be read.
        const bool there = lane + distance < columns;
        const int32_t other = __shfl_sync(members, sum, there ? lane + distance : lane);
        if (there && lane < distance) sum += other;
    }
    if (lane == 0) sums[row] = sum;
}

// ---------------------------------------------------------------- exchange within a warp

// output[32 w + l] = the sum over rounds k of input[32 w + (l ^ (k + 1))], through shared memory.
// Whole warps, each with 32 elements; n is a multiple of 32.
extern "C" __global__ void warp_exchange(const int32_t *input, int32_t *output, uint32_t n,
                                         uint32_t rounds) {
    __shared__ int32_t slots[kMaxWarps][kWarpSize];
    const uint32_t lane = threadIdx.x % kWarpSize;
    int32_t *mine = slots[threadIdx.x / kWarpSize];
    const uint32_t at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n) return;
    const int32_t value = input[at];
    int32_t sum = 0;
    for (uint32_t round = 0; round < rounds; ++round) {
        mine[lane] = value;
        // All lanes have written their slots; each reads another's.
        __syncwarp();
        sum += mine[lane ^ ((round + 1) % kWarpSize)];
        // All lanes have read; the next round writes.
        __syncwarp();
    }
    output[at] = sum;
}

// ---------------------------------------------------------------- producer and consumer warps

constexpr uint32_t kBuffers = 2;
constexpr uint32_t kRoleThreads = 64;
constexpr uint32_t kMeeting = 2 * kRoleThreads;
// Named barriers, one for each buffer; 0 is __syncthreads.
constexpr uint32_t kFull = 1;
constexpr uint32_t kEmpty = kFull + kBuffers;

// output[i] = input[i] + (its mirror image within its 64 elements), 64 elements a step. Two warps
// fetch, two compute. One block; n is a multiple of 64.
extern "C" __global__ void __launch_bounds__(kMeeting)
    mirror_sums(const int32_t *input, int32_t *output, uint32_t n) {
    __shared__ int32_t buffers[kBuffers][kRoleThreads];
    const uint32_t thread = threadIdx.x % kRoleThreads;
    const uint32_t steps = n / kRoleThreads;
    if (threadIdx.x < kRoleThreads) {
        for (uint32_t step = 0; step < steps; ++step) {
            const uint32_t buffer = step % kBuffers;
            // The consumers have read what was here.
            if (step >= kBuffers) barrier_sync(kEmpty + buffer, kMeeting);
            buffers[buffer][thread] = input[step * kRoleThreads + thread];
            // Written before this; the consumers wait for it.
            barrier_arrive(kFull + buffer, kMeeting);
        }
    } else {
        for (uint32_t step = 0; step < steps; ++step) {
            const uint32_t buffer = step % kBuffers;
            barrier_sync(kFull + buffer, kMeeting);
            const int32_t a = buffers[buffer][thread];
            const int32_t b = buffers[buffer][kRoleThreads - 1 - thread];
            // Nobody waits for the last arrivals.
            if (step + kBuffers < steps) barrier_arrive(kEmpty + buffer, kMeeting);
            output[step * kRoleThreads + thread] = a + b;
        }
    }
}

// ---------------------------------------------------------------- vectors at any alignment

// output[i] = scale * input[i] for n elements at any alignment. 16 bytes at a time where input and
// output have the same alignment, with a head and a tail of single elements.
extern "C" __global__ void scale_vector(const float *input, float *output, float scale, uint32_t n) {
    constexpr uint32_t kPack = sizeof(float4) / sizeof(float);
    const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
    const uint32_t threads = gridDim.x * blockDim.x;
    const uintptr_t misalignment = uintptr_t(input) % sizeof(float4);
    if (uintptr_t(output) % sizeof(float4) != misalignment) {
        for (uint32_t i = thread; i < n; i += threads) output[i] = scale * input[i];
        return;
    }
    // Elements up to the first boundary.
    const uint32_t to_boundary = uint32_t((sizeof(float4) - misalignment) / sizeof(float)) % kPack;
    const uint32_t head = min(n, to_boundary);
    const uint32_t packs = (n - head) / kPack;
    const uint32_t tail = head + packs * kPack;
    if (thread < head) output[thread] = scale * input[thread];
    const float4 *from = reinterpret_cast<const float4 *>(input + head);
    float4 *to = reinterpret_cast<float4 *>(output + head);
    for (uint32_t pack = thread; pack < packs; pack += threads) {
        const float4 x = from[pack];
        to[pack] = make_float4(scale * x.x, scale * x.y, scale * x.z, scale * x.w);
    }
    if (thread < n - tail) output[tail + thread] = scale * input[tail + thread];
}

// ---------------------------------------------------------------- rows that lie far apart

// output[r] = input[r * stride], one thread a row; r * stride can exceed 32 bits.
extern "C" __global__ void first_column(const int32_t *input, int32_t *output, uint32_t rows,
                                        uint32_t stride) {
    const uint32_t row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row < rows) output[row] = input[size_t(row) * stride];
}

// ---------------------------------------------------------------- counts in global memory

// counts[k] += how many of n values are k, for values below kBins. `counts` is zero before.
constexpr uint32_t kBins = 16;
extern "C" __global__ void count_values(const uint32_t *values, uint32_t *counts, uint32_t n) {
    __shared__ uint32_t bins[kBins];
    if (threadIdx.x < kBins) bins[threadIdx.x] = 0;
    // The first threads have cleared the bins; all count.
    __syncthreads();
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        atomicAdd(&bins[values[i]], 1);
    }
    // All threads have counted; the first ones read.
    __syncthreads();
    if (threadIdx.x < kBins) atomicAdd(&counts[threadIdx.x], bins[threadIdx.x]);
}
