// block: one block a row. two_pass is the same with less shared memory than the row needs.
//
// Traffic: as slice_packs.cuh, or passing_packs.cuh where a row is visited once.
// Parallelism: block i takes rows i, i + grid, ...; its threads are the team, and have the row's packs as those say.
// Invariants: all threads of a block take the same branches of a row, so that they meet at its barriers; nothing of a row
//     is written over before all have read it.
#pragma once

#include <stdint.h>

#include <type_traits>

#include "abi.h"
#include "passing_packs.cuh"
#include "reduce.cuh"
#include "row.cuh"
#include "slice_cache.cuh"
#include "slice_packs.cuh"
#include "speakers.cuh"
#include "vector.cuh"

namespace xent {

template <typename T, class Terms>
struct BlockStrategy {
    using Element = T;
    using TermsOfRow = Terms;
    using Packs = std::conditional_t<Terms::kOnePass, PassingPacks, SlicePacks<T, Terms>>;
    using Row = xent::Row<T, Terms, BlockTeam, Packs>;
    static constexpr bool kSharesWarps = false;
    static constexpr bool kLooksAhead = true;
    static constexpr bool kHasTwoLaunches = false;
    static constexpr uint32_t kDividedSlots = 1;

    struct Storage {
        BlockStorage block;
        SliceCacheStorage cache;
    };

    using Place = std::conditional_t<Terms::kOnePass, PassingPlace, SlicePlace>;

    BlockTeam team;
    Place place;

    __device__ __forceinline__ BlockStrategy(Storage &storage, uint4 *shared,
                                             const XentGeometry &geometry, uint32_t classes)
        : team{storage.block}, place(make_place(storage, shared, geometry, classes)) {
        // The cache's mbarriers are there for all.
        if (!Terms::kOnePass) __syncthreads();
    }

    // body(index, tell) for each row, by all threads of its team: it calls tell(summary) once; and
    // report(summary, speakers) by one warp for each summary.
    template <class Summary, class Body, class Report>
    __device__ __forceinline__ void for_each_row(uint64_t rows, const Body &body,
                                                 const Report &report) {
        for (uint64_t index = blockIdx.x; index < rows; index += gridDim.x) {
            body(index, [&](const Summary &summary) {
                if (threadIdx.x < kWarpSize) report(summary, Speakers::first_lane(index));
            });
            // All warps have read the team's storage and the cache; the next row writes both.
            team.separate();
        }
    }

    __device__ __forceinline__ Row row(const T *input, uint64_t, const RowLayout<T> &layout,
                                       const Terms &terms, const XentTransform &by,
                                       uint32_t target) {
        Row row(input, layout, terms, by, target, team, place_of_packs());
        row.load_singles();
        return row;
    }

    __device__ __forceinline__ void write_zeros(T *to, uint32_t classes) const {
        block_write_zeros(to, classes, place.slice);
    }

    // After a row is written; with its place, and the elements from one row to the next.
    __device__ __forceinline__ void close_output(T *, uint64_t) const {}

    // Whether this thread's warp finds what all need, and in which slot it leaves it.
    __device__ __forceinline__ bool finds() const { return threadIdx.x < kWarpSize; }
    __device__ __forceinline__ uint32_t slot() const { return 0; }

  private:
    __device__ __forceinline__ static Place make_place(Storage &storage, uint4 *shared,
                                                       const XentGeometry &geometry,
                                                       uint32_t classes) {
        const Slice whole(0, 1, classes / kPackSize<T>);
        if constexpr (Terms::kOnePass) {
            return {whole};
        } else {
            return {SliceCache(shared, storage.cache, geometry.cached_packs), whole,
                    geometry.cached_packs};
        }
    }

    // What packs are made of beside the row.
    __device__ __forceinline__ auto &place_of_packs() {
        if constexpr (Terms::kOnePass) {
            return team;
        } else {
            return place;
        }
    }
};

}  // namespace xent
