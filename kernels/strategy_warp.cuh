// warp: a row in the registers of a warp, or of 8 or 16 lanes of one, Terms::kLanePacks packs a lane at most; a row
// that is visited once is kept nowhere (passing_packs.cuh).
//
// Traffic: with b bytes an element, b * classes read and as many written. Weights of elements (class weights,
//     target probabilities), and rows
//     whose output is not cut as the input is, are read a second time, from the cache closest by.
// Parallelism: pack i of a row belongs to thread i % lanes_per_row of its group. Which lane that is depends on
//     the row, so that a group's accesses begin at a sector of memory (ShiftedTeam). Single elements
//     (row.cuh) lie side by side. The fewer lanes, the less of a row's work is done by several. A warp takes
//     rows_per_warp consecutive rows, as many at a time as it has groups, and then says what is known of
//     them, a lane a row.
// Invariants: rows have at most kLanePacks packs a lane. No barrier of the block; the groups of a warp
//     may be in different places of the code.
#pragma once

#include <stdint.h>

#include <type_traits>

#include "abi.h"
#include "dtype.cuh"
#include "passing_packs.cuh"
#include "reduce.cuh"
#include "row.cuh"
#include "speakers.cuh"
#include "vector.cuh"

namespace xent {

// Where a group of lanes has the packs of a row: in registers.
template <typename T, uint32_t kPacks>
class LanePacks {
    static_assert(kPacks < 32, "a bit for each");

  public:
    static constexpr bool kAtHand = true;

    // `skipped` is a pack that no pass shall visit, or kNoPack.
    template <class Place>
    __device__ __forceinline__ LanePacks(const uint4 *body, uint32_t packs, uint32_t skipped,
                                         const Place &place)
        : body_(body),
          packs_(packs),
          lanes_(place.team.size()),
          most_packs_(place.most_packs) {
        const uint32_t lane = place.team.lane(), shift = place.team.shift, log2 = place.lanes_log2;
        first_ = lane - shift;
        slots_ = (packs + shift + lanes_ - 1) >> log2;
        // Slot i is pack i * lanes + first, where there is one: none in the first slot where that wrapped.
        mine_ = (1u << ((packs + lanes_ - 1 - first_) >> log2)) - 1 - (first_ >> 31);
        const uint32_t slot = (skipped + shift) >> log2;
        if (skipped < packs && ((skipped + shift) & (lanes_ - 1)) == lane) mine_ &= ~(1u << slot);
        for_each_slot([&](uint32_t i, uint32_t there) {
            if constexpr (kComparesPacks<T>) kept_[i] = lowest_pack<T>();
            if (there != 0) kept_[i] = body_[index_of(i)];
        });
    }

    __device__ __forceinline__ uint32_t begin() const { return 0; }
    __device__ __forceinline__ uint32_t end() const { return packs_; }
    __device__ __forceinline__ bool has_edges() const { return true; }
    // kNoPack is nobody's.
    __device__ __forceinline__ bool takes(uint32_t pack) const { return pack < packs_; }
    __device__ __forceinline__ uint32_t owner_of(uint32_t) const { return 0; }
    // Weights of elements are not kept.
    __device__ __forceinline__ bool is_kept(uint32_t) const { return false; }
    template <uint32_t kSize>
    __device__ __forceinline__ void keep_weights(uint32_t, const float (&)[kSize]) const {}
    template <uint32_t kSize>
    __device__ __forceinline__ void load_weights(uint32_t, float (&)[kSize]) const {}

    // Registers cannot be chosen by an index; the row was read a moment ago, and is not overwritten yet.
    __device__ __forceinline__ uint4 fetch(uint32_t pack) const { return body_[pack]; }

    // The largest element of this lane's packs, and the first pack that has it.
    __device__ __forceinline__ float largest() const {
        uint4 largest = lowest_pack<T>();
        for_each_slot([&](uint32_t i, uint32_t) { largest = larger<T>(largest, kept_[i]); });
        return largest_of<T>(largest);
    }
    __device__ __forceinline__ uint32_t first_with(float value) const {
        uint32_t first = kNoPack;
        for_each([&](uint32_t i, uint32_t index) {
            if (first == kNoPack && largest_of<T>(kept_[i]) == value) first = index;
        });
        return first;
    }
    // do_with(index, bits, there): without a branch, nothing but -inf where there is no pack, and `there` is 0.
    template <class Do>
    __device__ __forceinline__ void for_each_at_hand(const Do &do_with) const {
        for_each_slot([&](uint32_t i, uint32_t there) { do_with(index_of(i), kept_[i], there); });
    }

    // do_with(index, bits) for this lane's packs.
    template <Pass, class Do>
    __device__ __forceinline__ void forward(const Do &do_with) const {
        for_each([&](uint32_t i, uint32_t index) { do_with(index, kept_[i]); });
    }
    // do_with(index, bits, prefetch(index)): what `prefetch` loads is read before do_with writes.
    template <class Prefetch, class Do>
    __device__ __forceinline__ void backward(const Prefetch &prefetch, const Do &do_with) const {
        decltype(prefetch(0)) beside[kPacks];
        for_each([&](uint32_t i, uint32_t index) { beside[i] = prefetch(index); });
        for_each([&](uint32_t i, uint32_t index) { do_with(index, kept_[i], beside[i]); });
    }

  private:
    const uint4 *body_;
    uint32_t packs_;
    uint32_t lanes_;
    uint32_t most_packs_;
    uint32_t slots_;  // that some lane of the group has a pack in
    uint32_t first_;  // wraps before the first pack
    // Bit i: whether pack i * lanes + first is there, and not skipped. Found once, not by each pass.
    uint32_t mine_;
    uint4 kept_[kPacks];

    __device__ __forceinline__ uint32_t index_of(uint32_t i) const { return i * lanes_ + first_; }

    // Unrolled, so that `kept_` stays in registers. Short rows leave it early: where a slot without a pack costs what
    // others do, the group looks in every other one whether any of its lanes has one; else the whole grid does at
    // powers of two, which costs long rows less.
    template <class Do>
    __device__ __forceinline__ void for_each_slot(const Do &do_with) const {
#pragma unroll
        for (uint32_t i = 0; i < kPacks; ++i) {
            if constexpr (kComparesPacks<T>) {
                if (i % 2 == 0 && i >= slots_) break;
            } else {
                if ((i & (i - 1)) == 0 && i * lanes_ > most_packs_) break;
            }
            do_with(i, mine_ >> i & 1);
        }
    }
    template <class Do>
    __device__ __forceinline__ void for_each(const Do &do_with) const {
        for_each_slot([&](uint32_t i, uint32_t there) {
            if (there != 0) do_with(i, index_of(i));
        });
    }
};

template <typename T, class Terms>
struct WarpStrategy {
    using Element = T;
    using TermsOfRow = Terms;
    using Packs = std::conditional_t<Terms::kOnePass, PassingPacks, LanePacks<T, Terms::kLanePacks>>;
    using Row = xent::Row<T, Terms, ShiftedTeam, Packs>;
    static constexpr uint32_t kWarps = XENT_WARP_BLOCK_THREADS / kWarpSize;
    static constexpr bool kSharesWarps = true;
    static constexpr bool kLooksAhead = false;
    static constexpr bool kHasTwoLaunches = false;
    static constexpr uint32_t kDividedSlots = kWarps;

    struct Storage {};

    ShiftedTeam team;
    uint32_t rows_per_warp;
    uint32_t lanes_log2;  // of the team
    uint32_t most_packs;  // of a row's body
    uint32_t lane_packs;  // that a group of lanes has room for

    __device__ __forceinline__ WarpStrategy(Storage &, uint4 *, const XentGeometry &geometry,
                                            uint32_t classes)
        : team{{LaneGroup(geometry.lanes_per_row)}, 0},
          rows_per_warp(uint32_t(geometry.rows_per_warp)),
          lanes_log2(__ffs(geometry.lanes_per_row) - 1),
          most_packs(classes / kPackSize<T>),
          lane_packs(geometry.lanes_per_row * Terms::kLanePacks) {}

    // As BlockStrategy's.
    template <class Summary, class Body, class Report>
    __device__ __forceinline__ void for_each_row(uint64_t rows, const Body &body,
                                                 const Report &report) const {
        // Not in registers: the packs of a row need them.
        __shared__ Summary summaries[kWarps][kWarpSize];
        Summary *const mine = summaries[slot()];
        const uint32_t lane = threadIdx.x % kWarpSize;
        const uint32_t groups = kWarpSize >> lanes_log2;
        const uint64_t step = uint64_t(gridDim.x) * kWarps * rows_per_warp;
        uint64_t first = (uint64_t(blockIdx.x) * kWarps + slot()) * rows_per_warp;
        for (; first < rows; first += step) {
            const uint32_t count = uint32_t(min(uint64_t(rows_per_warp), rows - first));
            for (uint32_t i = lane >> lanes_log2; i < count; i += groups) {
                body(first + i, [&](const Summary &summary) {
                    if (team.speaks()) mine[i] = summary;
                });
            }
            // Each group has written those of its rows; below each lane reads one.
            __syncwarp();
            report(mine[lane < count ? lane : 0], Speakers::each_lane(first, count));
            // All lanes have read theirs; the groups write the next ones.
            __syncwarp();
        }
    }

    __device__ __forceinline__ Row row(const T *input, uint64_t, const RowLayout<T> &layout,
                                       const Terms &terms, const XentTransform &by,
                                       uint32_t target) {
        // As far as a lane has room for another pack, if it keeps them.
        const uint32_t shift = packs_before_sector(layout.body(input));
        team.shift = Terms::kOnePass || layout.packs + shift <= lane_packs ? shift : 0;
        Row row(input, layout, terms, by, target, team, place_of_packs());
        row.load_singles();
        return row;
    }

    __device__ __forceinline__ void write_zeros(T *to, uint32_t classes) const {
        const RowLayout<T> layout(to, classes);
        for (uint32_t pack = team.rank(); pack < layout.packs; pack += team.size()) {
            layout.body(to)[pack] = make_uint4(0, 0, 0, 0);
        }
        for (uint32_t edge = team.rank(); edge < layout.edges(); edge += team.size()) {
            store_one(to + layout.edge(edge), 0.0f);
        }
    }

    __device__ __forceinline__ void close_output(T *, uint64_t) const {}

    // Every warp finds what it needs.
    __device__ __forceinline__ bool finds() const { return true; }
    __device__ __forceinline__ uint32_t slot() const { return threadIdx.x / kWarpSize; }

  private:
    // As BlockStrategy's.
    __device__ __forceinline__ const auto &place_of_packs() const {
        if constexpr (Terms::kOnePass) {
            return team;
        } else {
            return *this;
        }
    }
};

}  // namespace xent
