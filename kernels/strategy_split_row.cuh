// split_row: few long rows, each cut into slices that blocks anywhere on the GPU take, in two launches.
//
// Traffic: with b bytes an element, the first launch reads b * classes and leaves 32 bytes a slice; the second
//     one reads b * classes again, from the L2 cache where that holds what rows there are, and writes as many.
// Parallelism: block i of slices * rows takes slice i % slices of row i / slices. In the second launch every
//     block merges the partial results of its row's slices, in the same order, and then goes on alone.
// Invariants: rows have a class target. In place is safe with both launches: what the second one reads
//     again is a block's own slice. For a gradient alone it is not: every block reads the target's logit.
#pragma once

#include <stdint.h>

#include <type_traits>

#include "abi.h"
#include "cluster.cuh"
#include "reduce.cuh"
#include "row.cuh"
#include "slice_cache.cuh"
#include "slice_packs.cuh"
#include "speakers.cuh"
#include "vector.cuh"

namespace xent {

// A block that finds what the first launch left, and whatever else by itself.
struct SplitTeam {
    static constexpr uint32_t kFewestThreads = BlockTeam::kFewestThreads;

    BlockTeam block;
    const XentPartial *partials;  // of the row
    uint32_t slices;

    __device__ __forceinline__ uint32_t rank() const { return threadIdx.x; }
    __device__ __forceinline__ uint32_t size() const { return blockDim.x; }
    __device__ __forceinline__ void separate() const { block.separate(); }
    __device__ __forceinline__ void separate_block() const { block.separate(); }
    __device__ __forceinline__ void meet() const { block.meet(); }
    __device__ __forceinline__ uint32_t lowest(uint32_t x) const { return block.lowest(x); }

    template <class Shift, Weights kWeights>
    __device__ __forceinline__ SoftmaxState<Shift, kWeights> merge(
        const SoftmaxState<Shift, kWeights> &state, const XentTransform &by) const {
        // Only rows that cannot take the fused shift are gone over again.
        if constexpr (std::is_same_v<Shift, ExactShift>) {
            return block.merge(state, by);
        } else {
            wait_for_launch_before();
            const uint32_t lane = threadIdx.x % kWarpSize;
            const bool used = lane < slices;
            SoftmaxState<Shift, kWeights> merged(by, used ? partials[lane].max : -INFINITY);
            if (used) {
                merged.sum = partials[lane].sum;
                merged.shifted_sum = partials[lane].shifted_sum;
                merged.mass = partials[lane].mass;
            }
            // What the first warp found for all: every merge is a barrier of the team.
            block.meet();
            return merge_among<kMassAtLast<kWeights>>(WarpLanes<>(), merged);
        }
    }

    // The lowest class whose value is the row's largest, in a lane of each warp.
    __device__ __forceinline__ uint32_t lowest_of_slice(float row_max) const {
        const uint32_t lane = threadIdx.x % kWarpSize;
        const bool has_one = lane < slices && partials[lane].max == row_max;
        return has_one ? partials[lane].lowest : kNoPlace;
    }

    // For the first launch.
    __device__ __forceinline__ void share_target(float value) const { block.share_target(value); }
    __device__ __forceinline__ float shared_target(float, uint32_t, uint32_t part) const {
        return partials[part].target;
    }
};

// In the first launch a slice of a row; in the second one, in what FusedRow asks for, the whole row.
template <typename T, class Terms>
struct SplitRow : Row<T, Terms, SplitTeam, SlicePacks<T, Terms>> {
    using Slices = Row<T, Terms, SplitTeam, SlicePacks<T, Terms>>;
    using Slices::Slices;

    // The first launch has done it.
    template <Pass pass, class AnyState>
    __device__ __forceinline__ void accumulate(AnyState &, uint32_t = kNoPosition) const {}

    template <class AnyState>
    __device__ __forceinline__ void accumulate_slowly(AnyState &state, uint32_t excluded) const {
        const uint4 *const body = this->layout.body(this->input);
#pragma unroll 1
        for (uint32_t pack = threadIdx.x; pack < this->layout.packs; pack += blockDim.x) {
            if (pack != this->target_pack) {
                this->template add_pack<Pass::kLater>(state, pack, body[pack], excluded);
            }
        }
        // This block has the edges, but not always the target's pack.
        if (threadIdx.x < this->layout.edges()) {
            add_one(state, this->layout.edge(threadIdx.x), excluded);
        } else if (this->target_pack != kNoPack &&
                   threadIdx.x - this->layout.edges() < Slices::kSize) {
            add_one(state,
                    this->layout.start_of(this->target_pack) + threadIdx.x - this->layout.edges(),
                    excluded);
        }
    }

    template <class AnyState>
    __device__ __forceinline__ uint32_t lowest_of(const AnyState &, float row_max) const {
        return this->team.lowest_of_slice(row_max);
    }

    __device__ __forceinline__ uint32_t lowest_nan() const {
        for (uint32_t position = threadIdx.x; position < classes(); position += blockDim.x) {
            const float x = load_one(this->input + position);
            if (x != x) return position;
        }
        return kNoPosition;
    }

    // A row that needs the exact shift is read again as a whole, which nobody may overwrite meanwhile: its
    // first slice's block does what is left of it.
    __device__ __forceinline__ bool leaves_exact() const { return !this->packs.has_edges(); }

    // Single elements are read no sooner: in place, another block overwrites them if it has all of the row.
    template <class Output, class Shift>
    __device__ __forceinline__ void write(T *to, const Output &output, const Shift &shift) {
        this->load_singles();
        Slices::write(to, output, shift);
    }
    template <class Output, class Shift>
    __device__ __forceinline__ void write_slowly(T *to, const Output &output,
                                                 const Shift &shift) const {
        if constexpr (std::is_same_v<Shift, FusedShift>) {
            Slices::write_slowly(to, output, shift);
        } else {
            for (uint32_t position = threadIdx.x; position < classes(); position += blockDim.x) {
                const float value = this->transform.value(load_one(this->input + position));
                store_one(to + position, this->output_of(position, value, this->terms.at(position),
                                                         output, shift));
            }
        }
    }

    // In the first launch: what is known of this block's slice.
    __device__ __forceinline__ void leave_partial(const XentFused &p, uint64_t index) {
        this->load_singles();
        typename Slices::template State<FusedShift> mine(p.transform, -INFINITY);
        Slices::template accumulate<Pass::kFirst>(mine);
        const auto merged =
            this->team.block.template merge_to<Mass::kMerged>(mine, p.transform);
        uint32_t lowest = kNoPlace;
        if (p.row_argmax != nullptr || p.sums.correct != nullptr) {
            lowest = this->team.block.lowest(Slices::lowest_of(mine, merged.max));
        }
        // The launch before may still read what this one overwrites; and the next one counts on both.
        wait_for_launch_before();
        if (threadIdx.x == 0) {
            const uint32_t slice = blockIdx.x % p.geometry.slices;
            // Of the slice that has it; nobody looks at the others'.
            const float target = this->team.block.storage.target;
            p.partials[index * p.geometry.slices + slice] = {
                merged.max, merged.sum, merged.shifted_sum, merged.mass, target, lowest, {0, 0}};
        }
    }

  private:
    template <class AnyState>
    __device__ __forceinline__ void add_one(AnyState &state, uint32_t position,
                                            uint32_t excluded) const {
        if (this->is_target(position) || position == excluded) return;
        const float one[1] = {this->transform.value(load_one(this->input + position))};
        const float weight[1] = {this->terms.at(position)};
        state.add(one, weight, position);
    }

    __device__ __forceinline__ uint32_t classes() const {
        return this->layout.edges() + this->layout.packs * Slices::kSize;
    }
};

template <typename T, class Terms>
struct SplitRowStrategy {
    using Element = T;
    using TermsOfRow = Terms;
    using Row = SplitRow<T, Terms>;
    static constexpr bool kSharesWarps = false;
    static constexpr bool kLooksAhead = false;
    static constexpr bool kHasTwoLaunches = true;
    static constexpr uint32_t kDividedSlots = 1;

    struct Storage {
        BlockStorage block;
        SliceCacheStorage cache;
    };

    SplitTeam team;
    SlicePlace place;
    const XentPartial *partials;

    __device__ __forceinline__ SplitRowStrategy(Storage &storage, uint4 *shared,
                                                const XentGeometry &geometry, uint32_t classes,
                                                const XentPartial *all_partials)
        : team{{storage.block}, nullptr, geometry.slices},
          place{SliceCache(shared, storage.cache, 0),
                Slice(blockIdx.x % geometry.slices, geometry.slices, classes / kPackSize<T>), 0},
          partials(all_partials) {
        // What blocks without the target leave of it.
        if (threadIdx.x == 0) team.share_target(0.0f);
        __syncthreads();
    }

    // As BlockStrategy's.
    template <class Summary, class Body, class Report>
    __device__ __forceinline__ void for_each_row(uint64_t rows, const Body &body,
                                                 const Report &report) {
        const uint32_t step = gridDim.x / team.slices;
        for (uint64_t index = blockIdx.x / team.slices; index < rows; index += step) {
            team.partials = partials + index * team.slices;
            body(index, [&](const Summary &summary) {
                if (threadIdx.x < kWarpSize && place.slice.has_edges()) {
                    report(summary, Speakers::first_lane(index));
                }
            });
            // All warps have read the team's storage; the next row writes it.
            team.separate();
        }
    }

    __device__ __forceinline__ Row row(const T *input, uint64_t, const RowLayout<T> &layout,
                                       const Terms &terms, const XentTransform &by,
                                       uint32_t target) {
        return Row(input, layout, terms, by, target, team, place);
    }

    __device__ __forceinline__ void write_zeros(T *to, uint32_t classes) const {
        block_write_zeros(to, classes, place.slice);
    }

    __device__ __forceinline__ bool finds() const { return threadIdx.x < kWarpSize; }
    __device__ __forceinline__ uint32_t slot() const { return 0; }
};

}  // namespace xent
