// Reductions among the threads that share a row, its team, in an order that depends on nothing but how
// many they are, so that the same launch gives the same bits.
//
// A team offers
//     rank(), size()      this thread's place among its threads, which are kFewestThreads at least
//     speaks()            whether it is the thread that speaks for the row
//     first_pack()        where the whole row is the team's: the first pack that is this thread's, size() before
//                         its second one; wraps where that is before the row's first
//     merge(state)        the state of all elements that its threads took in; all get it, but for its place,
//                         and for its mass where all weights are 1: the caller knows how many there were
//     lowest(x), sum(x)   of all threads' values; all get it
//     separate()          between two of these: what the first one left has been read
//     separate_block()    a barrier for the threads of this block alone, or fewer where the team is a warp
//     meet()              a barrier: what its threads wrote before is visible to all of them after
//     share_target(x), shared_target(..)   from the one that has it, by way of the next merge, to all
// All threads of the team call each, and each is a barrier for what they wrote before, to shared memory too.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "cluster.cuh"
#include "softmax_state.cuh"

namespace xent {

constexpr uint32_t kWarpSize = 32;
constexpr uint32_t kMaxWarps = 16;
constexpr uint32_t kFullMask = 0xffffffffu;
static_assert(XENT_MAX_BLOCK_THREADS <= kMaxWarps * kWarpSize, "a slot for each warp");

// Lanes of a warp that reduce together: groups of kWidth, a power of two, each with its own result.
template <uint32_t kWidth = kWarpSize>
struct WarpLanes {
    __device__ __forceinline__ static constexpr uint32_t width() { return kWidth; }
    __device__ __forceinline__ static constexpr uint32_t mask() { return kFullMask; }
};

// The same where only the launch knows how many, and groups may be in different places of the code.
struct LaneGroup {
    uint32_t lanes;  // of the group: a power of two
    uint32_t bits;   // which of the warp

    __device__ __forceinline__ explicit LaneGroup(uint32_t group_lanes) : lanes(group_lanes) {
        const uint32_t first = threadIdx.x % kWarpSize & ~(lanes - 1);
        bits = (kFullMask >> (kWarpSize - lanes)) << first;
    }

    __device__ __forceinline__ uint32_t width() const { return lanes; }
    __device__ __forceinline__ uint32_t log2_width() const { return __ffs(lanes) - 1; }
    __device__ __forceinline__ uint32_t mask() const { return bits; }
};

// The same of a warp all of whose lanes reduce at once, each group for itself.
struct WarpGroups {
    uint32_t lanes;  // of a group: a power of two

    __device__ __forceinline__ explicit WarpGroups(uint32_t group_lanes) : lanes(group_lanes) {}

    __device__ __forceinline__ uint32_t width() const { return lanes; }
    __device__ __forceinline__ uint32_t log2_width() const { return __ffs(lanes) - 1; }
    __device__ __forceinline__ static constexpr uint32_t mask() { return kFullMask; }
};

// The value of the lane whose number differs in `bits`. One instruction of PTX, where __shfl_xor_sync takes
// several; in machine code five more where the mask is not a constant.
__device__ __forceinline__ float shuffle_xor(uint32_t mask, float x, uint32_t bits) {
    float other;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, %3;"
                 : "=f"(other)
                 : "f"(x), "r"(bits), "r"(mask));
    return other;
}
__device__ __forceinline__ uint32_t shuffle_xor(uint32_t mask, uint32_t x, uint32_t bits) {
    return __shfl_xor_sync(mask, x, bits);
}

// step(offset) for the bits in which the lanes that reduce together differ.
template <uint32_t kWidth, class Step>
__device__ __forceinline__ void for_each_step(const WarpLanes<kWidth> &, const Step &step) {
#pragma unroll
    for (uint32_t offset = kWidth / 2; offset > 0; offset /= 2) step(offset);
}

// The whole grid ends it at the same step.
template <class Group, class Step>
__device__ __forceinline__ void for_each_step(const Group &group, const Step &step) {
#pragma unroll
    for (uint32_t offset = 1; offset < kWarpSize; offset *= 2) {
        if (offset >= group.width()) break;
        step(offset);
    }
}

// Every lane gets the result: `combine` of two operands does not depend on their order.
template <class Lanes, typename T, class Combine>
__device__ __forceinline__ T butterfly(const Lanes &lanes, T x, const Combine &combine) {
    for_each_step(lanes, [&](uint32_t offset) {
        x = combine(x, shuffle_xor(lanes.mask(), x, offset));
    });
    return x;
}

template <class Lanes>
__device__ __forceinline__ float max_among(const Lanes &lanes, float x) {
    return butterfly(lanes, x, [](float a, float b) { return fmaxf(a, b); });
}
template <class Lanes, typename T>
__device__ __forceinline__ T sum_among(const Lanes &lanes, T x) {
    return butterfly(lanes, x, [](T a, T b) { return a + b; });
}
template <class Lanes>
__device__ __forceinline__ uint32_t lowest_among(const Lanes &lanes, uint32_t x) {
    return butterfly(lanes, x, [](uint32_t a, uint32_t b) { return min(a, b); });
}
template <typename T>
__device__ __forceinline__ T warp_sum(T x) {
    return sum_among(WarpLanes<>(), x);
}

// Which parts of a state other than max and sum are merged.
enum class Mass { kDropped, kMerged };

// Of states with the same maximum.
template <Mass mass, class Lanes, class Shift, Weights kWeights>
__device__ __forceinline__ SoftmaxState<Shift, kWeights> sum_states(
    const Lanes &lanes, SoftmaxState<Shift, kWeights> state) {
    for_each_step(lanes, [&](uint32_t offset) {
        state.sum += shuffle_xor(lanes.mask(), state.sum, offset);
        if (kWeights != Weights::kNone) {
            state.shifted_sum += shuffle_xor(lanes.mask(), state.shifted_sum, offset);
            if (mass == Mass::kMerged) state.mass += shuffle_xor(lanes.mask(), state.mass, offset);
        }
    });
    return state;
}

template <Mass mass, class Lanes, class Shift, Weights kWeights>
__device__ __forceinline__ SoftmaxState<Shift, kWeights> merge_among(
    const Lanes &lanes, SoftmaxState<Shift, kWeights> state) {
    state.raise(max_among(lanes, state.max), kNoPlace);
    return sum_states<mass>(lanes, state);
}

template <Weights kWeights>
constexpr Mass kMassAtLast = kWeights == Weights::kGiven ? Mass::kMerged : Mass::kDropped;

// ---------------------------------------------------------------- lanes of a warp

// What a team of lanes has, but for how states are merged.
struct GroupTeam {
    static constexpr uint32_t kFewestThreads = XENT_FEWEST_WARP_LANES;

    LaneGroup lanes;

    __device__ __forceinline__ uint32_t rank() const {
        return threadIdx.x & (lanes.width() - 1);
    }
    __device__ __forceinline__ uint32_t size() const { return lanes.width(); }
    __device__ __forceinline__ bool speaks() const { return rank() == 0; }
    __device__ __forceinline__ void separate() const {}
    __device__ __forceinline__ void separate_block() const { meet(); }
    __device__ __forceinline__ void meet() const { __syncwarp(lanes.mask()); }

    __device__ __forceinline__ uint32_t lowest(uint32_t x) const {
        x = lowest_among(lanes, x);
        meet();  // a shuffle orders no memory
        return x;
    }
    __device__ __forceinline__ float sum(float x) const {
        x = sum_among(lanes, x);
        meet();  // as above
        return x;
    }
    __device__ __forceinline__ void share_target(float) const {}
    // `mine` where `owner` is this thread's rank.
    __device__ __forceinline__ float shared_target(float mine, uint32_t owner, uint32_t) const {
        return __shfl_sync(lanes.mask(), mine, owner, lanes.width());
    }
};

// A group whose first `shift` lanes are its last threads, so that packs that begin within a sector of memory
// can be accessed by sectors (strategy_warp.cuh), and sums still add the same numbers in the same order.
struct ShiftedTeam : GroupTeam {
    uint32_t shift;

    __device__ __forceinline__ uint32_t lane() const { return GroupTeam::rank(); }
    __device__ __forceinline__ uint32_t first_pack() const { return lane() - shift; }
    __device__ __forceinline__ uint32_t rank() const { return (lane() - shift) & (lanes.width() - 1); }
    __device__ __forceinline__ bool speaks() const { return rank() == 0; }

    template <class Shift, Weights kWeights>
    __device__ __forceinline__ SoftmaxState<Shift, kWeights> merge(
        SoftmaxState<Shift, kWeights> state, const XentTransform &) const {
        state.raise(max_among(lanes, state.max), kNoPlace);
        state.sum = in_order(state.sum);
        if (kWeights != Weights::kNone) state.shifted_sum = in_order(state.shifted_sum);
        if (kWeights == Weights::kGiven) state.mass = in_order(state.mass);
        state = sum_states<kMassAtLast<kWeights>>(lanes, state);
        meet();  // a shuffle orders no memory
        return state;
    }
    __device__ __forceinline__ float sum(float x) const { return GroupTeam::sum(in_order(x)); }
    __device__ __forceinline__ float shared_target(float mine, uint32_t owner, uint32_t) const {
        return __shfl_sync(lanes.mask(), mine, owner + shift, lanes.width());
    }

  private:
    // Lane i gets what thread i has.
    __device__ __forceinline__ float in_order(float x) const {
        return __shfl_sync(lanes.mask(), x, lane() + shift, lanes.width());
    }
};

// ---------------------------------------------------------------- a block

// One slot a warp, or a block of a cluster.
template <uint32_t kSlots>
struct MergeSlots {
    float max[kSlots];
    float sum[kSlots];
    float shifted_sum[kSlots];
    float mass[kSlots];

    // A state of the slots below `used`, a slot a lane.
    template <class Shift, Weights kWeights>
    __device__ __forceinline__ SoftmaxState<Shift, kWeights> load(uint32_t slot, uint32_t used,
                                                                  const XentTransform &by) const {
        SoftmaxState<Shift, kWeights> state(by, slot < used ? max[slot] : -INFINITY);
        if (slot < used) {
            state.sum = sum[slot];
            state.shifted_sum = shifted_sum[slot];
            state.mass = mass[slot];
        }
        return state;
    }
};

// In static shared memory.
struct BlockStorage {
    MergeSlots<kMaxWarps> warps;
    uint32_t lowest[kMaxWarps];
    float target;
};

// A block of whole warps.
struct BlockTeam {
    static constexpr uint32_t kFewestThreads = kWarpSize;

    BlockStorage &storage;

    __device__ __forceinline__ uint32_t rank() const { return threadIdx.x; }
    __device__ __forceinline__ uint32_t first_pack() const { return threadIdx.x; }
    __device__ __forceinline__ uint32_t size() const { return blockDim.x; }
    __device__ __forceinline__ bool speaks() const { return threadIdx.x == 0; }
    // All warps have read the storage; it is written again.
    __device__ __forceinline__ void separate() const { __syncthreads(); }
    __device__ __forceinline__ void separate_block() const { __syncthreads(); }
    __device__ __forceinline__ void meet() const { __syncthreads(); }

    template <class Shift, Weights kWeights>
    __device__ __forceinline__ SoftmaxState<Shift, kWeights> merge(
        const SoftmaxState<Shift, kWeights> &state, const XentTransform &by) const {
        return merge_to<kMassAtLast<kWeights>>(state, by);
    }

    // With the mass for whoever merges it further: its sum is relative to a maximum that will change.
    template <Mass mass, class Shift, Weights kWeights>
    __device__ __forceinline__ SoftmaxState<Shift, kWeights> merge_to(
        SoftmaxState<Shift, kWeights> state, const XentTransform &by) const {
        const uint32_t lane = threadIdx.x % kWarpSize;
        const uint32_t warp = threadIdx.x / kWarpSize;
        const uint32_t warps = blockDim.x / kWarpSize;
        if (warps == 1) {
            state = merge_among<mass>(WarpLanes<>(), state);
            // In place of the barrier below: a shuffle orders no memory.
            __syncwarp();
            return state;
        }
        state = merge_among<Mass::kMerged>(WarpLanes<>(), state);
        if (lane == 0) {
            storage.warps.max[warp] = state.max;
            storage.warps.sum[warp] = state.sum;
            storage.warps.shifted_sum[warp] = state.shifted_sum;
            storage.warps.mass[warp] = state.mass;
        }
        // Lane 0 of each warp wrote its slot; below every warp reads all slots.
        __syncthreads();
        // Each warp merges all slots by itself, in the same order: no second barrier, same bits. Where
        // few slots are used, groups of lanes do the same work in fewer steps.
        constexpr uint32_t kFewWarps = 4;
        if (warps <= kFewWarps) {
            return merge_among<mass>(
                WarpLanes<kFewWarps>(),
                storage.warps.template load<Shift, kWeights>(lane % kFewWarps, warps, by));
        }
        return merge_among<mass>(
            WarpLanes<kMaxWarps>(),
            storage.warps.template load<Shift, kWeights>(lane % kMaxWarps, warps, by));
    }

    __device__ __forceinline__ uint32_t lowest(uint32_t x) const {
        const uint32_t lane = threadIdx.x % kWarpSize;
        const uint32_t warps = blockDim.x / kWarpSize;
        x = lowest_among(WarpLanes<>(), x);
        if (lane == 0) storage.lowest[threadIdx.x / kWarpSize] = x;
        // Lane 0 of each warp wrote its slot; below every warp reads all slots.
        __syncthreads();
        return lowest_among(WarpLanes<>(), lane < warps ? storage.lowest[lane] : kNoPlace);
    }

    __device__ __forceinline__ float sum(float x) const {
        const uint32_t lane = threadIdx.x % kWarpSize;
        const uint32_t warps = blockDim.x / kWarpSize;
        x = warp_sum(x);
        if (lane == 0) storage.warps.sum[threadIdx.x / kWarpSize] = x;
        // Lane 0 of each warp wrote its slot; below every warp reads all slots.
        __syncthreads();
        return warp_sum(lane < warps ? storage.warps.sum[lane] : 0.0f);
    }

    // Called by the one thread that has it.
    __device__ __forceinline__ void share_target(float value) const { storage.target = value; }
    __device__ __forceinline__ float shared_target(float, uint32_t, uint32_t) const {
        return storage.target;
    }
};

#if __CUDA_ARCH__ >= 900
// ---------------------------------------------------------------- a cluster of blocks

// What a block tells the others.
struct BlockResult {
    float max;
    float sum;
    float shifted_sum;
    float mass;
    float target;
    uint32_t lowest;
};

// Of every block of a cluster: a slot a block, in packs of 16 bytes that lanes read side by side.
struct BlockResults {
    uint4 state[XENT_MAX_CLUSTER];
    uint4 rest[XENT_MAX_CLUSTER];

    __device__ __forceinline__ void send(uint32_t from, uint32_t to, const BlockResult &result) {
        store_to_block(state + from, to,
                       make_uint4(__float_as_uint(result.max), __float_as_uint(result.sum),
                                  __float_as_uint(result.shifted_sum),
                                  __float_as_uint(result.mass)));
        store_to_block(rest + from, to,
                       make_uint4(__float_as_uint(result.target), result.lowest, 0, 0));
    }
    __device__ __forceinline__ BlockResult of(uint32_t block) const {
        const uint4 a = state[block], b = rest[block];
        return {__uint_as_float(a.x), __uint_as_float(a.y), __uint_as_float(a.z),
                __uint_as_float(a.w), __uint_as_float(b.x), b.y};
    }
};

// In static shared memory, for two exchanges in turn.
struct ClusterStorage {
    BlockResults results[2];
};

// The blocks of a cluster, of whole warps. Each tells all others what it found, into their own shared
// memory, so that a block that has passed the exchange's barrier is waited for by nobody, and may end. Two
// sets of slots in turn: whoever writes to a set again has passed the barrier of the exchange between,
// and so all have read it.
struct ClusterTeam {
    static constexpr uint32_t kFewestThreads = BlockTeam::kFewestThreads;

    BlockTeam block;
    ClusterStorage &storage;
    uint32_t exchanges;

    // The peers' shared memory is there once they have arrived; the first exchange waits for it. The
    // caller has a barrier of the block before the first row.
    __device__ __forceinline__ ClusterTeam(BlockStorage &block_storage,
                                           ClusterStorage &cluster_storage)
        : block{block_storage}, storage(cluster_storage), exchanges(0) {
        // What blocks without the target tell of it; nobody looks at it.
        if (threadIdx.x == 0) block.share_target(0.0f);
        cluster_arrive_relaxed();
    }
    // Nobody waits for the arrival where there was no exchange.
    __device__ __forceinline__ void end() const {
        if (exchanges == 0) cluster_wait();
    }

    __device__ __forceinline__ uint32_t rank() const { return threadIdx.x; }
    __device__ __forceinline__ uint32_t size() const { return blockDim.x; }
    __device__ __forceinline__ bool speaks() const {
        return threadIdx.x == 0 && cluster_rank() == 0;
    }
    // All warps of this block have read the block's storage; it is written again. Their peers do not
    // write to it, and for the cluster's there are two sets.
    __device__ __forceinline__ void separate() const { __syncthreads(); }
    __device__ __forceinline__ void separate_block() const { __syncthreads(); }
    __device__ __forceinline__ void meet() {
        if (exchanges++ == 0) cluster_wait();
        cluster_arrive();
        cluster_wait();
    }

    // Every block's result, in every warp. The caller is in step with its block.
    __device__ __forceinline__ const BlockResults &exchange(const BlockResult &mine) {
        BlockResults &results = storage.results[exchanges % 2];
        // All blocks have begun: their shared memory can be written.
        if (exchanges++ == 0) cluster_wait();
        if (threadIdx.x < cluster_size()) results.send(cluster_rank(), threadIdx.x, mine);
        // All blocks have written their results to all; below each reads its own slots.
        cluster_arrive();
        cluster_wait();
        return results;
    }

    // Lanes in groups of XENT_MAX_CLUSTER have a block's result each; `rest` where there is no block.
    __device__ __forceinline__ static BlockResult of_lane(const BlockResults &results,
                                                          const BlockResult &rest) {
        const uint32_t lane = threadIdx.x % XENT_MAX_CLUSTER;
        return lane < cluster_size() ? results.of(lane) : rest;
    }

    template <class Shift, Weights kWeights>
    __device__ __forceinline__ SoftmaxState<Shift, kWeights> merge(
        SoftmaxState<Shift, kWeights> state, const XentTransform &by) {
        state = block.merge_to<Mass::kMerged>(state, by);
        const BlockResult found = of_lane(
            exchange({state.max, state.sum, state.shifted_sum, state.mass, block.storage.target, 0}),
            {-INFINITY, 0.0f, 0.0f, 0.0f, 0.0f, 0});
        SoftmaxState<Shift, kWeights> merged(by, found.max);
        merged.sum = found.sum;
        merged.shifted_sum = found.shifted_sum;
        merged.mass = found.mass;
        return merge_among<kMassAtLast<kWeights>>(WarpLanes<XENT_MAX_CLUSTER>(), merged);
    }

    __device__ __forceinline__ uint32_t lowest(uint32_t x) {
        const BlockResults &results = exchange({0.0f, 0.0f, 0.0f, 0.0f, 0.0f, block.lowest(x)});
        return lowest_among(WarpLanes<XENT_MAX_CLUSTER>(),
                            of_lane(results, {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, kNoPlace}).lowest);
    }

    __device__ __forceinline__ float sum(float x) {
        const BlockResults &results = exchange({0.0f, block.sum(x), 0.0f, 0.0f, 0.0f, 0});
        return sum_among(WarpLanes<XENT_MAX_CLUSTER>(),
                         of_lane(results, {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0}).sum);
    }

    // Called by the one thread of the cluster that has it.
    __device__ __forceinline__ void share_target(float value) const { block.share_target(value); }
    // Of block `part`, as the last merge brought it.
    __device__ __forceinline__ float shared_target(float, uint32_t, uint32_t part) const {
        return storage.results[(exchanges - 1) % 2].of(part).target;
    }
};
#endif

}  // namespace xent
