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

// Every lane gets the result: max and + of two operands do not depend on their order.
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
        x = fmaxf(x, __shfl_xor_sync(kFullMask, x, offset));
    }
    return x;
}

template <typename T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
        x += __shfl_xor_sync(kFullMask, x, offset);
    }
    return x;
}

// The state of all elements that the warp's lanes took in; every lane gets it.
template <class Shift>
__device__ __forceinline__ SoftmaxState<Shift> warp_merge(SoftmaxState<Shift> state) {
    state.raise(warp_max(state.max));
    state.sum = warp_sum(state.sum);
    state.shifted_sum = warp_sum(state.shifted_sum);
    state.mass = warp_sum(state.mass);
    return state;
}

// One slot a warp, in static shared memory.
struct BlockMergeStorage {
    float max[kMaxWarps];
    float sum[kMaxWarps];
    float shifted_sum[kMaxWarps];
    float mass[kMaxWarps];
};
static_assert(sizeof(BlockMergeStorage) == XENT_BLOCK_STATIC_SHARED_BYTES,
              "the plan leaves this much of a block's shared memory alone");

// The state of all elements that the block's threads took in; every thread gets it. Called by all
// threads of a block of whole warps; what they wrote before, to shared memory too, is visible to all
// of them after. The caller separates two uses of one storage by a barrier.
template <class Shift>
__device__ __forceinline__ SoftmaxState<Shift> block_merge(SoftmaxState<Shift> state,
                                                           BlockMergeStorage &storage,
                                                           const XentTransform &by) {
    const uint32_t lane = threadIdx.x % kWarpSize;
    const uint32_t warp = threadIdx.x / kWarpSize;
    const uint32_t warps = blockDim.x / kWarpSize;
    state = warp_merge(state);
    if (warps == 1) {
        // In place of the barrier below: a shuffle orders no memory.
        __syncwarp();
        return state;
    }
    if (lane == 0) {
        storage.max[warp] = state.max;
        storage.sum[warp] = state.sum;
        storage.shifted_sum[warp] = state.shifted_sum;
        storage.mass[warp] = state.mass;
    }
    // Lane 0 of each warp wrote its slot; below every warp reads all slots.
    __syncthreads();
    // Each warp merges all slots by itself, in the same order: no second barrier, same bits.
    SoftmaxState<Shift> merged(by, lane < warps ? storage.max[lane] : -INFINITY);
    if (lane < warps) {
        merged.sum = storage.sum[lane];
        merged.shifted_sum = storage.shifted_sum[lane];
        merged.mass = storage.mass[lane];
    }
    return warp_merge(merged);
}

}  // namespace xent
