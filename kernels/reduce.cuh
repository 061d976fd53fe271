// Reductions within a warp and a block, in an order that depends on nothing but the thread count,
// so that the same launch gives the same bits.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "softmax_state.cuh"

namespace xent {

constexpr uint32_t kWarpSize = 32;
constexpr uint32_t kMaxWarps = 32;
constexpr uint32_t kFullMask = 0xffffffffu;

// Every lane gets the result: max and + of two operands do not depend on their order. Each group of
// kWidth lanes, a power of two, has its own.
template <uint32_t kWidth = kWarpSize>
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (uint32_t offset = kWidth / 2; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(kFullMask, x, offset));
    }
    return x;
}

template <uint32_t kWidth = kWarpSize, typename T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (uint32_t offset = kWidth / 2; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(kFullMask, x, offset);
    }
    return x;
}

__device__ __forceinline__ uint32_t warp_min(uint32_t x) {
#pragma unroll
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
        x = min(x, __shfl_xor_sync(kFullMask, x, offset));
    }
    return x;
}

// The state of all elements that the lanes of a group took in; every lane gets it, but for its place,
// and the mass only on request.
template <uint32_t kWidth, class Shift, Weights kWeights>
__device__ __forceinline__ SoftmaxState<Shift, kWeights> warp_merge(
    SoftmaxState<Shift, kWeights> state, bool with_mass) {
    state.raise(warp_max<kWidth>(state.max), kNoPlace);
    state.sum = warp_sum<kWidth>(state.sum);
    if (kWeights != Weights::kNone) {
        state.shifted_sum = warp_sum<kWidth>(state.shifted_sum);
        if (with_mass) state.mass = warp_sum<kWidth>(state.mass);
    }
    return state;
}

// One slot a warp, in static shared memory.
struct BlockMergeStorage {
    float max[kMaxWarps];
    float sum[kMaxWarps];
    float shifted_sum[kMaxWarps];
    float mass[kMaxWarps];
    uint32_t lowest[kMaxWarps];
};
static_assert(sizeof(BlockMergeStorage) == XENT_BLOCK_STATIC_SHARED_BYTES,
              "the plan leaves this much of a block's shared memory alone");

// The state of all elements that the block's threads took in; every thread gets it, but for its
// place, and for its mass where all weights are 1: the caller knows how many there were. Called by
// all threads of a block of whole warps; what they wrote before, to shared memory too, is visible to
// all of them after. The caller separates two uses of one storage by a barrier.
template <class Shift, Weights kWeights>
__device__ __forceinline__ SoftmaxState<Shift, kWeights> block_merge(
    SoftmaxState<Shift, kWeights> state, BlockMergeStorage &storage, const XentTransform &by) {
    constexpr bool kWithMass = kWeights == Weights::kGiven;
    const uint32_t lane = threadIdx.x % kWarpSize;
    const uint32_t warp = threadIdx.x / kWarpSize;
    const uint32_t warps = blockDim.x / kWarpSize;
    if (warps == 1) {
        state = warp_merge<kWarpSize>(state, kWithMass);
        // In place of the barrier below: a shuffle orders no memory.
        __syncwarp();
        return state;
    }
    // The second step needs the mass of each warp, to express its sum relative to another maximum.
    state = warp_merge<kWarpSize>(state, true);
    if (lane == 0) {
        storage.max[warp] = state.max;
        storage.sum[warp] = state.sum;
        storage.shifted_sum[warp] = state.shifted_sum;
        storage.mass[warp] = state.mass;
    }
    // Lane 0 of each warp wrote its slot; below every warp reads all slots.
    __syncthreads();
    // Each warp merges all slots by itself, in the same order: no second barrier, same bits. Where few
    // slots are used, groups of lanes do the same work in fewer steps.
    constexpr uint32_t kFewWarps = 8;
    const uint32_t slot = warps <= kFewWarps ? lane % kFewWarps : lane;
    SoftmaxState<Shift, kWeights> merged(by, slot < warps ? storage.max[slot] : -INFINITY);
    if (slot < warps) {
        merged.sum = storage.sum[slot];
        merged.shifted_sum = storage.shifted_sum[slot];
        merged.mass = storage.mass[slot];
    }
    return warps <= kFewWarps ? warp_merge<kFewWarps>(merged, kWithMass)
                              : warp_merge<kWarpSize>(merged, kWithMass);
}

// The lowest of all threads' values; every thread gets it. Called by all threads of the block. The
// caller separates two uses of one storage by a barrier.
__device__ __forceinline__ uint32_t block_min(uint32_t x, BlockMergeStorage &storage) {
    const uint32_t lane = threadIdx.x % kWarpSize;
    const uint32_t warps = blockDim.x / kWarpSize;
    x = warp_min(x);
    if (warps == 1) {
        // In place of the barrier below: a shuffle orders no memory.
        __syncwarp();
        return x;
    }
    if (lane == 0) storage.lowest[threadIdx.x / kWarpSize] = x;
    // Lane 0 of each warp wrote its slot; below every warp reads all slots.
    __syncthreads();
    return warp_min(lane < warps ? storage.lowest[lane] : kNoPlace);
}

// The sum over all threads, in a fixed order; every thread gets it. As block_min otherwise.
__device__ __forceinline__ float block_sum(float x, BlockMergeStorage &storage) {
    const uint32_t lane = threadIdx.x % kWarpSize;
    const uint32_t warps = blockDim.x / kWarpSize;
    x = warp_sum(x);
    if (warps == 1) {
        // In place of the barrier below: a shuffle orders no memory.
        __syncwarp();
        return x;
    }
    if (lane == 0) storage.sum[threadIdx.x / kWarpSize] = x;
    // Lane 0 of each warp wrote its slot; below every warp reads all slots.
    __syncthreads();
    return warp_sum(lane < warps ? storage.sum[lane] : 0.0f);
}

}  // namespace xent
