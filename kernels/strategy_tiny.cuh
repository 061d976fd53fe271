// tiny: short rows, many to a warp: 1 to 32 lanes a row, up to XENT_TINY_LANE_ELEMENTS elements a lane.
//
// Traffic: with b bytes an element, b * classes read and as many written. A warp's rows are read together,
//     16 bytes at a time, if one of them is to be read at all: a sector of memory holds parts of several.
// Parallelism: the rows of a warp lie one behind the other, and go through shared memory as one run of
//     packs, since rows of 10 f32 cannot be accessed 16 bytes at a time each for itself. With gaps between
//     rows, or an output that is not aligned as the input is, lanes access memory by themselves.
// Invariants: lanes of rows beyond the last one do what the last row's do, and write nothing. In place is
//     safe: a warp has read all of its rows before it writes any.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "dtype.cuh"
#include "reduce.cuh"
#include "row.cuh"
#include "softmax_state.cuh"
#include "speakers.cuh"
#include "vector.cuh"

namespace xent {

using TinyTeam = LanesTeam<LaneGroup>;

// A warp's rows in shared memory, aligned as they are in memory.
template <typename T>
class Tile {
  public:
    // `rows` are what a warp has room for.
    __device__ __forceinline__ Tile(uint4 *shared, uint32_t rows, uint32_t classes)
        : classes_(classes) {
        const uint32_t bytes = rows * classes * uint32_t(sizeof(T));
        const uint32_t packs = (bytes + XENT_PACK_BYTES - 1) / XENT_PACK_BYTES + 1;
        packs_ = shared + threadIdx.x / kWarpSize * packs;
    }

    // Where the first element lies if `row` is the warp's first row in memory.
    __device__ __forceinline__ T *first(const T *row) const {
        return reinterpret_cast<T *>(packs_) +
               uint32_t(uintptr_t(row)) % XENT_PACK_BYTES / uint32_t(sizeof(T));
    }

    // Called by all lanes, which have been synchronised with those that used the tile before.
    __device__ __forceinline__ void load(const T *from, uint32_t rows) const {
        const RowLayout<T> layout(from, rows * classes_);
        T *const to = first(from);
        const uint32_t lane = threadIdx.x % kWarpSize;
        for (uint32_t i = lane; i < layout.packs; i += kWarpSize) {
            layout.body(to)[i] = layout.body(from)[i];
        }
        if (lane < layout.edges()) to[layout.edge(lane)] = from[layout.edge(lane)];
        // Each lane wrote a part; below each reads its row's.
        __syncwarp();
    }

    // As above.
    __device__ __forceinline__ void store(T *to, uint32_t rows) const {
        // Each lane wrote its row's part; below each reads others.
        __syncwarp();
        const RowLayout<T> layout(to, rows * classes_);
        const T *const from = first(to);
        const uint32_t lane = threadIdx.x % kWarpSize;
        for (uint32_t i = lane; i < layout.packs; i += kWarpSize) {
            layout.body(to)[i] = layout.body(from)[i];
        }
        if (lane < layout.edges()) to[layout.edge(lane)] = from[layout.edge(lane)];
    }

  private:
    uint4 *packs_;
    uint32_t classes_;
};

// What the lanes of a warp share about where its rows are.
template <typename T>
struct TinyPlace {
    Tile<T> tile;
    uint32_t rows;     // that the warp has at the moment
    uint32_t group;    // of this lane: its row among them
    uint32_t classes;
    T *output_in_tile;  // this lane's row, or null for an output that lanes write by themselves

    // Of the warp's first row, if its rows lie one behind the other.
    __device__ __forceinline__ bool is_run(const T *row, const T *&first) const {
        first = reinterpret_cast<const T *>(
            __shfl_sync(kFullMask, static_cast<unsigned long long>(uintptr_t(row)), 0));
        return __all_sync(kFullMask, group >= rows || row == first + group * classes);
    }
};

// A lane's part of a row.
template <typename T, class TermsOfRow>
struct TinyRow {
    using Element = T;
    using Terms = TermsOfRow;
    using Team = TinyTeam;
    static constexpr uint32_t kElements = XENT_TINY_LANE_ELEMENTS;

    template <class Shift>
    using State = SoftmaxState<Shift, Terms::kWeights>;

    uint32_t target_position;  // or kNoPosition
    uint32_t classes;          // 0 for a row that is not read
    uint32_t used;             // elements of a lane, at most
    uint32_t turn;             // by how many they are rotated
    LogitTransform<Terms::kKnowsCap> transform;
    Terms terms;
    Team &team;
    const TinyPlace<T> &place;
    float x[kElements];

    // Called by all lanes of the warp.
    __device__ __forceinline__ TinyRow(const T *input, const RowLayout<T> &layout,
                                       const Terms &row_terms, const XentTransform &by,
                                       uint32_t target, Team &row_team, const TinyPlace<T> &warp_place)
        : target_position(target),
          classes(layout.edges() + layout.packs * kPackSize<T>),
          used((warp_place.classes + row_team.size() - 1) / row_team.size()),
          transform{by},
          terms(row_terms),
          team(row_team),
          place(warp_place) {
        // Rows whose elements share banks of shared memory, all of it apart, begin at different ones.
        constexpr uint32_t kAllBanks = 128;
        const uint32_t bytes = place.classes * uint32_t(sizeof(T));
        const uint32_t rows_apart = kAllBanks / min(bytes & (0u - bytes), kAllBanks);
        turn = place.group / rows_apart % used;
        const T *first;
        const bool is_run = place.is_run(input, first);
        if (!__any_sync(kFullMask, classes != 0 && place.group < place.rows)) return;
        if (is_run) {
            place.tile.load(first, place.rows);
            load(place.tile.first(first) + min(place.group, place.rows - 1) * place.classes);
        } else if (classes != 0) {
            load(input);
        }
    }

    // Position of this lane's element i, or kNoPosition.
    __device__ __forceinline__ uint32_t position(uint32_t i) const {
        const uint32_t turned = i + turn < used ? i + turn : i + turn - used;
        const uint32_t at = team.rank() + turned * team.size();
        return i < used && at < classes ? at : kNoPosition;
    }

    __device__ __forceinline__ void load(const T *row) {
#pragma unroll
        for (uint32_t i = 0; i < kElements; ++i) {
            const uint32_t at = position(i);
            x[i] = at == kNoPosition ? 0.0f : transform.value(load_one(row + at));
        }
    }

    __device__ __forceinline__ bool is_target(uint32_t at) const {
        return Terms::kHasTarget && at == target_position;
    }

    // do_with(x, position) for this lane's elements but the target and `excluded`.
    template <class Do>
    __device__ __forceinline__ void for_each_other(uint32_t excluded, const Do &do_with) const {
#pragma unroll
        for (uint32_t i = 0; i < kElements; ++i) {
            const uint32_t at = position(i);
            if (at != kNoPosition && !is_target(at) && at != excluded) do_with(x[i], at);
        }
    }

    template <Pass pass, class AnyState>
    __device__ __forceinline__ void accumulate(AnyState &state, uint32_t excluded = kNoPosition) const {
        // The maximum of all first, so that it need not be raised element by element.
        float max = -INFINITY;
        for_each_other(excluded, [&](float value, uint32_t) { max = fmaxf(max, value); });
        state.raise(max_among(team.lanes, max), 0);
        accumulate_slowly(state, excluded);
    }

    template <class AnyState>
    __device__ __forceinline__ void accumulate_slowly(AnyState &state, uint32_t excluded) const {
        for_each_other(excluded, [&](float value, uint32_t at) {
            const float one[1] = {value};
            if constexpr (Terms::kWeights == Weights::kGiven) {
                const float weight[1] = {terms.at(at)};
                state.add(one, weight, at);
            } else {
                state.add(one, at);
            }
        });
    }

    __device__ __forceinline__ float target_value() const {
        float mine = 0.0f;
#pragma unroll
        for (uint32_t i = 0; i < kElements; ++i) {
            if (is_target(position(i))) mine = x[i];
        }
        return team.shared_target(mine, target_position % team.size(), 0);
    }
    __device__ __forceinline__ float load_target() const { return target_value(); }

    template <class AnyState>
    __device__ __forceinline__ uint32_t lowest_of(const AnyState &, float row_max) const {
        uint32_t lowest = kNoPosition;
        for_each_other(kNoPosition, [&](float value, uint32_t at) {
            if (value == row_max) lowest = min(lowest, at);
        });
        return lowest;
    }

    __device__ __forceinline__ uint32_t lowest_nan() const {
        uint32_t lowest = kNoPosition;
#pragma unroll
        for (uint32_t i = 0; i < kElements; ++i) {
            if (x[i] != x[i]) lowest = min(lowest, position(i));
        }
        return lowest;
    }

    __device__ __forceinline__ void put(T *to, uint32_t at, float value) const {
        if (place.output_in_tile != nullptr) {
            store_one(place.output_in_tile + at, value);
        } else if (place.group < place.rows) {
            store_one(to + at, value);
        }
    }

    template <class Output, class Shift>
    __device__ __forceinline__ void write(T *to, const Output &output, const Shift &shift) const {
#pragma unroll
        for (uint32_t i = 0; i < kElements; ++i) {
            const uint32_t at = position(i);
            if (at == kNoPosition) continue;
            float result;
            if constexpr (Terms::kWeights == Weights::kGiven) {
                result = output.at(x[i], shift, terms.at(at));
            } else {
                result = output.at(x[i], shift);
            }
            if constexpr (Terms::kHasTarget) {
                if (is_target(at)) result = output.target;
            }
            put(to, at, transform.capped() ? mul_rn(result, transform.cap_slope(x[i])) : result);
        }
    }
    template <class Output, class Shift>
    __device__ __forceinline__ void write_slowly(T *to, const Output &output,
                                                 const Shift &shift) const {
        write(to, output, shift);
    }

    // Whether rows that need the exact shift are finished by another block alone.
    __device__ __forceinline__ static constexpr bool leaves_exact() { return false; }

    // Puts one element right that was written like the others. Called by all lanes of the row.
    __device__ __forceinline__ void mend(T *to, uint32_t at, float value) const {
        team.meet();
        if (team.rank() == 0) put(to, at, value);
    }
};

template <typename T, class Terms>
struct TinyStrategy {
    using Element = T;
    using TermsOfRow = Terms;
    using Row = TinyRow<T, Terms>;
    static_assert(!Terms::kStreamed, "weights of elements do not go through the tile");
    static constexpr uint32_t kWarps = XENT_WARP_BLOCK_THREADS / kWarpSize;
    static constexpr bool kSharesWarps = true;
    static constexpr bool kHasTwoLaunches = false;
    static constexpr uint32_t kDividedSlots = kWarps;

    struct Storage {};

    TinyTeam team;
    TinyPlace<T> place;

    __device__ __forceinline__ TinyStrategy(Storage &, uint4 *shared, const XentGeometry &geometry,
                                            uint32_t classes)
        : team{LaneGroup(geometry.lanes_per_row)},
          place{Tile<T>(shared, kWarpSize / geometry.lanes_per_row, classes), 0,
                threadIdx.x % kWarpSize / geometry.lanes_per_row, classes, nullptr} {}

    // As BlockStrategy's; all lanes of a warp call `body` together, and may part within it.
    template <class Summary, class Body, class Report>
    __device__ __forceinline__ void for_each_row(uint64_t rows, const Body &body,
                                                 const Report &report) {
        const uint32_t rows_of_warp = kWarpSize / team.size();
        const uint64_t step = uint64_t(gridDim.x) * kWarps * rows_of_warp;
        uint64_t first = (uint64_t(blockIdx.x) * kWarps + slot()) * rows_of_warp;
        for (; first < rows; first += step) {
            place.rows = uint32_t(min(uint64_t(rows_of_warp), rows - first));
            Summary kept{};
            body(first + min(place.group, place.rows - 1),
                 [&](const Summary &summary) { kept = summary; });
            report(kept, Speakers::first_of_groups(first, place.rows, team.size()));
            // All lanes have read the tile; the next rows overwrite it.
            __syncwarp();
        }
    }

    __device__ __forceinline__ Row row(const T *input, const RowLayout<T> &layout,
                                       const Terms &terms, const XentTransform &by,
                                       uint32_t target) {
        return Row(input, layout, terms, by, target, team, place);
    }

    // Before rows are written, and after: called by all lanes, with the places of their rows.
    __device__ __forceinline__ void open_output(T *to) {
        const T *first;
        const bool is_run = place.is_run(to, first);
        // Lanes without a row of their own write nothing, not to the tile either.
        place.output_in_tile = is_run && place.group < place.rows
                                   ? place.tile.first(first) + place.group * place.classes
                                   : nullptr;
        // All lanes have read the tile; below it is overwritten.
        __syncwarp();
    }
    __device__ __forceinline__ void close_output(T *to) const {
        const T *first;
        if (place.is_run(to, first)) place.tile.store(const_cast<T *>(first), place.rows);
    }

    __device__ __forceinline__ void write_zeros(T *to, uint32_t classes) const {
        for (uint32_t at = team.rank(); at < classes; at += team.size()) {
            if (place.output_in_tile != nullptr) {
                store_one(place.output_in_tile + at, 0.0f);
            } else if (place.group < place.rows) {
                store_one(to + at, 0.0f);
            }
        }
    }

    // Every warp finds what it needs.
    __device__ __forceinline__ bool finds() const { return true; }
    __device__ __forceinline__ uint32_t slot() const { return threadIdx.x / kWarpSize; }
};

}  // namespace xent
