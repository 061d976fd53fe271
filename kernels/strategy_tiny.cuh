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

// Lanes that know the row's maximum before they begin: their states have it in common.
struct TinyTeam : LanesTeam<LaneGroup> {
    // Their number is a power of two; a division would cost more than all else here.
    __device__ __forceinline__ uint32_t rank() const { return threadIdx.x & (size() - 1); }
    __device__ __forceinline__ bool speaks() const { return rank() == 0; }

    template <class Shift, Weights kWeights>
    __device__ __forceinline__ SoftmaxState<Shift, kWeights> merge(
        SoftmaxState<Shift, kWeights> state, const XentTransform &) const {
        state.sum = sum_among(lanes, state.sum);
        if (kWeights != Weights::kNone) state.shifted_sum = sum_among(lanes, state.shifted_sum);
        if (kWeights == Weights::kGiven) state.mass = sum_among(lanes, state.mass);
        return state;
    }
};

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
    uint32_t rows;      // that the warp has at the moment
    uint32_t group;     // of this lane: its row among them
    uint32_t classes;
    uint32_t slots;     // elements of a lane, at most
    uint32_t start;     // position of this lane's first slot
    T *output_in_tile;  // this lane's row
    T *output_run;      // the warp's first row, or null for rows with gaps between

    __device__ __forceinline__ TinyPlace(const Tile<T> &warp_tile, const TinyTeam &team,
                                         uint32_t row_classes)
        : tile(warp_tile),
          rows(0),
          group(threadIdx.x % kWarpSize / team.size()),
          classes(row_classes),
          slots((row_classes + team.size() - 1) / team.size()),
          output_in_tile(nullptr),
          output_run(nullptr) {
        // Lanes of rows whose first elements share a bank of shared memory begin at different ones. A
        // power of two divides both rows and banks: so many rows begin at banks of their own.
        constexpr uint32_t kBanksBytes = 128, kBankBytes = 4;
        const uint32_t row_bytes = classes * uint32_t(sizeof(T));
        const uint32_t divisor = min(row_bytes & (0u - row_bytes), kBanksBytes);
        const uint32_t turn = group * divisor / kBanksBytes;
        start = team.rank() + turn * max(team.size(), kBankBytes / uint32_t(sizeof(T)));
    }

    __device__ __forceinline__ bool has_row() const { return group < rows; }

    // Of the warp's first row, if its rows lie one behind the other.
    __device__ __forceinline__ bool is_run(const T *row, const T *&first) const {
        first = reinterpret_cast<const T *>(
            __shfl_sync(kFullMask, static_cast<unsigned long long>(uintptr_t(row)), 0));
        return __all_sync(kFullMask, !has_row() || row == first + group * classes);
    }
};

// A lane's part of a row: slots, of which the i-th has the position `start ^ i * lanes`. With a start below
// the number of lanes, they are every so manieth element; any other changes only their order.
template <typename T, class TermsOfRow>
struct TinyRow {
    using Element = T;
    using Terms = TermsOfRow;
    using Team = TinyTeam;
    static constexpr uint32_t kSlots = XENT_TINY_LANE_ELEMENTS;
    // Slots are gone over by so many.
    static constexpr uint32_t kStep = 4;

    template <class Shift>
    using State = SoftmaxState<Shift, Terms::kWeights>;

    uint32_t target_position;  // or kNoPosition
    uint32_t classes;          // 0 for a row that is not read
    LogitTransform<Terms::kKnowsCap> transform;
    Terms terms;
    Team &team;
    const TinyPlace<T> &place;
    float x[kSlots];  // -inf for the target, and where there is no element
    float target;     // -inf where there is none

    // Called by all lanes of the warp.
    __device__ __forceinline__ TinyRow(const T *input, const RowLayout<T> &layout,
                                       const Terms &row_terms, const XentTransform &by,
                                       uint32_t target_at, Team &row_team,
                                       const TinyPlace<T> &warp_place)
        : target_position(target_at),
          classes(layout.classes),
          transform{by},
          terms(row_terms),
          team(row_team),
          place(warp_place),
          target(-INFINITY) {
        const T *first;
        const bool is_run = place.is_run(input, first);
        if (!__any_sync(kFullMask, classes != 0 && place.has_row())) return;
        const T *row;
        if (is_run) {
            place.tile.load(first, place.rows);
            row = place.tile.first(first) + min(place.group, place.rows - 1) * place.classes;
        } else {
            T *const own = place.tile.first(nullptr) + place.group * place.classes;
            if (place.has_row()) {
                for (uint32_t at = team.rank(); at < classes; at += team.size()) own[at] = input[at];
            }
            row = place.tile.first(nullptr) + min(place.group, place.rows - 1) * place.classes;
            // Each lane wrote a part; below each reads its row's.
            __syncwarp();
        }
        for_each_slot([&](uint32_t i, uint32_t at) {
            x[i] = is_other(at) ? transform.value(load_one(row + at)) : -INFINITY;
        });
        if (Terms::kHasTarget && classes != 0) target = transform.value(load_one(row + target_position));
    }

    // do_with(slot, its position, which can be beyond the row) for this lane's slots.
    template <class Do>
    __device__ __forceinline__ void for_each_slot(const Do &do_with) const {
#pragma unroll
        for (uint32_t first = 0; first < kSlots; first += kStep) {
            if (first >= place.slots) break;
#pragma unroll
            for (uint32_t i = first; i < first + kStep; ++i) {
                do_with(i, place.start ^ i * team.size());
            }
        }
    }

    // Whether there is an element but the target.
    __device__ __forceinline__ bool is_other(uint32_t at) const {
        return at < classes && !(Terms::kHasTarget && at == target_position);
    }

    // do_with(x, position) for this lane's elements but the target.
    template <class Do>
    __device__ __forceinline__ void for_each_other(const Do &do_with) const {
        for_each_slot([&](uint32_t i, uint32_t at) {
            if (is_other(at)) do_with(x[i], at);
        });
    }

    template <Pass pass, class AnyState>
    __device__ __forceinline__ void accumulate(AnyState &state, uint32_t excluded = kNoPosition) const {
        if (pass == Pass::kFirst) {
            // The maximum of all first: no sum is ever relative to a smaller one.
            float max = target;
            for_each_slot([&](uint32_t i, uint32_t) { max = fmaxf(max, x[i]); });
            state.raise(max_among(team.lanes, max), 0);
        }
#pragma unroll
        for (uint32_t first = 0; first < kSlots; first += kStep) {
            if (first >= place.slots) break;
            float some[kStep], weights[kStep];
            bool taken[kStep];
#pragma unroll
            for (uint32_t j = 0; j < kStep; ++j) {
                const uint32_t at = place.start ^ (first + j) * team.size();
                taken[j] = is_other(at) && !(pass == Pass::kLater && at == excluded);
                some[j] = pass == Pass::kLater && !taken[j] ? -INFINITY : x[first + j];
                if constexpr (Terms::kWeights == Weights::kGiven) {
                    weights[j] = taken[j] ? terms.at(at) : 0.0f;
                }
            }
            if constexpr (Terms::kWeights == Weights::kGiven) {
                state.add_up_to_max(some, weights);
            } else {
                state.add_up_to_max(some, taken);
            }
        }
    }

    template <class AnyState>
    __device__ __forceinline__ void accumulate_slowly(AnyState &state, uint32_t excluded) const {
        accumulate<Pass::kLater>(state, excluded);
    }

    __device__ __forceinline__ float target_value() const { return target; }
    __device__ __forceinline__ float load_target() const { return target; }

    template <class AnyState>
    __device__ __forceinline__ uint32_t lowest_of(const AnyState &, float row_max) const {
        uint32_t lowest = kNoPosition;
        for_each_other([&](float value, uint32_t at) {
            if (value == row_max) lowest = min(lowest, at);
        });
        return lowest;
    }

    __device__ __forceinline__ uint32_t lowest_nan() const {
        uint32_t lowest = target != target ? target_position : kNoPosition;
        for_each_other([&](float value, uint32_t at) {
            if (value != value) lowest = min(lowest, at);
        });
        return lowest;
    }

    // To the output that is open.
    __device__ __forceinline__ void put(uint32_t at, float value) const {
        if (place.has_row()) store_one(place.output_in_tile + at, value);
    }

    __device__ __forceinline__ float sloped(float result, float value) const {
        return transform.capped() ? mul_rn(result, transform.cap_slope(value)) : result;
    }

    template <class Output, class Shift>
    __device__ __forceinline__ void write(T *, const Output &output, const Shift &shift) const {
        if (!place.has_row()) return;
        for_each_slot([&](uint32_t i, uint32_t at) {
            if (at >= classes) return;
            float result;
            if constexpr (Terms::kWeights == Weights::kGiven) {
                result = output.at(x[i], shift, terms.at(at));
            } else {
                result = output.at(x[i], shift);
            }
            store_one(place.output_in_tile + at, sloped(result, x[i]));
        });
        if constexpr (Terms::kHasTarget) {
            // By the lane that has written it like the others.
            if (((target_position ^ place.start) & (team.size() - 1)) == 0) {
                store_one(place.output_in_tile + target_position, sloped(output.target, target));
            }
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
    __device__ __forceinline__ void mend(T *, uint32_t at, float value) const {
        team.meet();
        if (team.rank() == 0) put(at, value);
    }
};

template <typename T, class Terms>
struct TinyStrategy {
    using Element = T;
    using TermsOfRow = Terms;
    using Row = TinyRow<T, Terms>;
    static_assert(!Terms::kStreamed, "weights of elements do not go through the tile");
    static constexpr uint32_t kWarps = XENT_WARP_BLOCK_THREADS / kWarpSize;
    static constexpr bool kHasTwoLaunches = false;
    static constexpr uint32_t kDividedSlots = kWarps;

    struct Storage {};

    TinyTeam team;
    TinyPlace<T> place;

    __device__ __forceinline__ TinyStrategy(Storage &, uint4 *shared, const XentGeometry &geometry,
                                            uint32_t classes)
        : team{{LaneGroup(geometry.lanes_per_row)}},
          place(Tile<T>(shared, kWarpSize / geometry.lanes_per_row, classes), team, classes) {}

    // As BlockStrategy's; all lanes of a warp call `body` together, and may part within it.
    template <class Summary, class Body, class Report>
    __device__ __forceinline__ void for_each_row(uint64_t rows, const Body &body,
                                                 const Report &report) {
        const uint32_t rows_of_warp = kWarpSize / team.size();
        const uint64_t step = uint64_t(gridDim.x) * kWarps * rows_of_warp;
        uint64_t first = (uint64_t(blockIdx.x) * kWarps + slot()) * rows_of_warp;
        for (; first < rows; first += step) {
            place.rows = uint32_t(min(uint64_t(rows_of_warp), rows - first));
            body(first + min(place.group, place.rows - 1), [&](const Summary &summary) {
                report(summary,
                       Speakers::of_groups(first, place.rows, place.group, team.speaks()));
            });
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
        place.output_run = is_run ? const_cast<T *>(first) : nullptr;
        place.output_in_tile = place.tile.first(place.output_run) + place.group * place.classes;
        // All lanes have read the tile; below it is overwritten.
        __syncwarp();
    }
    __device__ __forceinline__ void close_output(T *to) const {
        if (place.output_run != nullptr) {
            place.tile.store(place.output_run, place.rows);
            return;
        }
        // Each lane wrote a part of its row; below each reads another.
        __syncwarp();
        if (!place.has_row()) return;
        for (uint32_t at = team.rank(); at < place.classes; at += team.size()) {
            to[at] = place.output_in_tile[at];
        }
    }

    __device__ __forceinline__ void write_zeros(T *, uint32_t classes) const {
        if (!place.has_row()) return;
        for (uint32_t at = team.rank(); at < classes; at += team.size()) {
            store_one(place.output_in_tile + at, 0.0f);
        }
    }

    // Every warp finds what it needs.
    __device__ __forceinline__ bool finds() const { return true; }
    __device__ __forceinline__ uint32_t slot() const { return threadIdx.x / kWarpSize; }
};

}  // namespace xent
