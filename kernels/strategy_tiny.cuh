// tiny: short rows, many to a warp: 1 to 32 lanes a row. For operations without a class target, or without a
// softmax; fused_tiny.cuh has the loss of a class.
//
// Traffic: with b bytes an element, b * classes read and as many written. A warp's rows are read together,
//     16 bytes at a time, if one of them is to be read at all: a sector of memory holds parts of several.
// Parallelism: tile.cuh.
// Invariants: lanes that have no row, or one that is not read, have one of zeros in the tile. In place is safe: a
//     warp has read all of its rows before it writes any.
#pragma once

#include <stdint.h>

#include <type_traits>

#include "abi.h"
#include "dtype.cuh"
#include "reduce.cuh"
#include "row.cuh"
#include "softmax_state.cuh"
#include "speakers.cuh"
#include "tile.cuh"
#include "vector.cuh"

namespace xent {

// Lanes that know the row's maximum before they begin: their states have it in common.
struct TinyTeam : GroupTeam {
    template <class Shift, Weights kWeights>
    __device__ __forceinline__ SoftmaxState<Shift, kWeights> merge(
        SoftmaxState<Shift, kWeights> state, const XentTransform &) const {
        return sum_states<kMassAtLast<kWeights>>(lanes, state);
    }
};

// A lane's part of a row, in the tile.
template <typename T, class TermsOfRow>
struct TinyRow {
    using Element = T;
    using Terms = TermsOfRow;
    using Team = TinyTeam;
    static constexpr bool kHasPacks = false;
    static_assert(!Terms::kHasTarget && !Terms::kKnowsCap && Terms::kWeights == Weights::kNone,
                  "elements are all alike");

    template <class Shift>
    using State = SoftmaxState<Shift, Weights::kNone>;

    Team &team;
    Tile<T> &tile;

    // Called by all lanes of the warp, each with its row in memory; of one that has no classes, nothing is used.
    __device__ __forceinline__ TinyRow(const T *input, uint64_t stride, const RowLayout<T> &layout,
                                       Team &row_team, Tile<T> &warp_tile)
        : team(row_team), tile(warp_tile) {
        const T *const first = input - tile.row_in_memory() * stride;
        tile.open(first, stride);
        if (__any_sync(kFullMask, layout.classes != 0)) tile.load(first, stride);
        const bool reads = layout.classes != 0 && tile.has_row();
        if (!__all_sync(kFullMask, reads) && !reads) tile.fill_with_zeros();
    }

    // The sum of of_element(x, position) over this lane's elements. It can change x, which then takes the element's
    // place if `replaces`.
    template <class Do>
    __device__ __forceinline__ float sum_over(bool replaces, const Do &of_element) const {
        float sum = 0.0f;
        tile.for_each_chunk([&](const auto &chunk) {
            constexpr uint32_t kLength = std::decay_t<decltype(chunk)>::kLength;
            float x[kLength], terms[kLength];
            chunk.load(x);
#pragma unroll
            for (uint32_t i = 0; i < kLength; ++i) {
                terms[i] = chunk.has(i) ? of_element(x[i], chunk.position + i) : 0.0f;
            }
            if (replaces) chunk.store(x);
            sum = add_rn(sum, sum_of(terms));
        });
        return sum;
    }

    template <Pass pass, class AnyState>
    __device__ __forceinline__ void accumulate(AnyState &state, uint32_t excluded = kNoPosition) const {
        if (pass == Pass::kFirst) {
            // The maximum of all first: no sum is ever relative to a smaller one.
            float max = -INFINITY;
            tile.for_each_chunk([&](const auto &chunk) {
                float x[std::decay_t<decltype(chunk)>::kLength];
                chunk.load(x);
                max = fmaxf(max, max_of(x));
            });
            state.raise(max_among(team.lanes, max), 0);
        }
        tile.for_each_chunk([&](const auto &chunk) {
            constexpr uint32_t kLength = std::decay_t<decltype(chunk)>::kLength;
            float x[kLength];
            bool taken[kLength];  // into what is not kept
            chunk.load(x);
#pragma unroll
            for (uint32_t i = 0; i < kLength; ++i) {
                taken[i] = true;
                if (pass == Pass::kLater && chunk.position + i == excluded) x[i] = -INFINITY;
            }
            state.add_up_to_max(x, taken);
        });
    }

    template <class AnyState>
    __device__ __forceinline__ void accumulate_slowly(AnyState &state, uint32_t excluded) const {
        accumulate<Pass::kLater>(state, excluded);
    }

    template <class AnyState>
    __device__ __forceinline__ uint32_t lowest_of(const AnyState &, float row_max) const {
        uint32_t lowest = kNoPosition;
        tile.for_each([&](const auto &chunk) {
            float x[1];
            chunk.load(x);
            if (x[0] == row_max) lowest = min(lowest, chunk.position);
        });
        return lowest;
    }

    template <class Output, class Shift>
    __device__ __forceinline__ void write(T *, const Output &output, const Shift &shift) const {
        tile.for_each_chunk([&](const auto &chunk) {
            float x[std::decay_t<decltype(chunk)>::kLength];
            chunk.load(x);
#pragma unroll
            for (float &value : x) value = output.at(value, shift);
            chunk.store(x);
        });
    }
    template <class Output, class Shift>
    __device__ __forceinline__ void write_slowly(T *to, const Output &output, const Shift &shift) const {
        write(to, output, shift);
    }

    // Puts one element right that was written like the others. Called by all lanes of the row.
    __device__ __forceinline__ void mend(T *, uint32_t at, float value) const {
        if (at - tile.begin < tile.count) store_one(&tile.at(at), value);
    }
};

template <typename T, class Terms>
struct TinyStrategy {
    using Element = T;
    using TermsOfRow = Terms;
    using Row = TinyRow<T, Terms>;

    struct Storage {};

    TinyTeam team;
    Tile<T> tile;
    const XentGeometry &geometry;

    __device__ __forceinline__ TinyStrategy(Storage &, uint4 *shared, const XentGeometry &of_launch,
                                            uint32_t classes)
        : team{{LaneGroup(of_launch.lanes_per_row)}},
          tile(shared, of_launch, classes),
          geometry(of_launch) {}

    // As BlockStrategy's; all lanes of a warp call `body` together, and may part within it.
    template <class Summary, class Body, class Report>
    __device__ __forceinline__ void for_each_row(uint64_t all, const Body &body, const Report &report) {
        for (TinyRows rows(geometry, all); rows.are_left(); rows.go_on()) {
            tile.rows = rows.count;
            const uint64_t row = rows.first + tile.row_in_memory();
            body(row, [&](const Summary &summary) {
                const bool speaks = team.speaks() && tile.has_row();
                report(summary, Speakers::of_groups(rows.first, rows.counted(), row, speaks));
            });
            // All lanes have read the tile; the next rows overwrite it.
            __syncwarp();
        }
    }

    __device__ __forceinline__ Row row(const T *input, uint64_t stride, const RowLayout<T> &layout,
                                       const Terms &, const XentTransform &, uint32_t) {
        return Row(input, stride, layout, team, tile);
    }

    // After outputs have taken their elements' places: called by all lanes, with the places of their rows in memory.
    __device__ __forceinline__ void close_output(T *to, uint64_t stride) const {
        tile.store(to - tile.row_in_memory() * stride, stride);
    }

    __device__ __forceinline__ void write_zeros(T *, uint32_t) const {}  // the row is one of zeros
};

}  // namespace xent
