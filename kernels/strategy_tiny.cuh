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
struct TinyTeam : GroupTeam {
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
        copy(to, from, layout);
        // Each lane wrote a part; below each reads its row's.
        __syncwarp();
    }

    // As above.
    __device__ __forceinline__ void store(T *to, uint32_t rows) const {
        // Each lane wrote its row's part; below each reads others.
        __syncwarp();
        const RowLayout<T> layout(to, rows * classes_);
        const T *const from = first(to);
        copy(to, from, layout);
    }

    // The same for rows with gaps between, by each row's lanes: row `group` where it `is_one`.
    __device__ __forceinline__ void load_row(const T *from, bool is_one, uint32_t group,
                                             const TinyTeam &team) const {
        T *const to = first(nullptr) + group * classes_;
        if (is_one) {
            for (uint32_t i = team.rank(); i < classes_; i += team.size()) to[i] = from[i];
        }
        // As above.
        __syncwarp();
    }
    __device__ __forceinline__ void store_row(T *to, bool is_one, uint32_t group,
                                              const TinyTeam &team) const {
        __syncwarp();
        const T *const from = first(nullptr) + group * classes_;
        if (is_one) {
            for (uint32_t i = team.rank(); i < classes_; i += team.size()) to[i] = from[i];
        }
    }

  private:
    uint4 *packs_;
    uint32_t classes_;

    // A lane's packs are all on their way before one is written. They are no more than its elements take, since
    // a warp has no more rows than its lanes have elements for.
    __device__ __forceinline__ static void copy(T *to, const T *from, const RowLayout<T> &layout) {
        constexpr uint32_t kLanePacks = XENT_TINY_LANE_ELEMENTS / kPackSize<T>;
        const uint32_t lane = threadIdx.x % kWarpSize;
        uint4 packs[kLanePacks];
#pragma unroll
        for (uint32_t i = 0; i < kLanePacks; ++i) {
            const uint32_t pack = i * kWarpSize + lane;
            packs[i] = pack < layout.packs ? layout.body(from)[pack] : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (uint32_t i = 0; i < kLanePacks; ++i) {
            const uint32_t pack = i * kWarpSize + lane;
            if (pack < layout.packs) layout.body(to)[pack] = packs[i];
        }
        if (lane < layout.edges()) to[layout.edge(lane)] = from[layout.edge(lane)];
    }
};

// What a lane knows of where its rows are, and its part of them: consecutive elements, of which slot i has
// the (i ^ turn)-th.
template <typename T>
struct TinyPlace {
    Tile<T> tile;
    uint32_t rows;      // that the warp has at the moment
    uint32_t group;     // of this lane: its row among them
    uint32_t classes;
    uint32_t slots;     // elements of a lane, at most
    uint32_t begin;     // position of this lane's first element
    uint32_t count;     // elements of this lane
    uint32_t turn;
    T *output_in_tile;  // this lane's first element
    T *output_run;      // the warp's first row, or null for rows with gaps between

    __device__ __forceinline__ TinyPlace(const Tile<T> &warp_tile, const TinyTeam &team,
                                         uint32_t row_classes)
        : tile(warp_tile),
          rows(0),
          group(threadIdx.x % kWarpSize >> team.lanes.log2_width()),
          classes(row_classes),
          slots((row_classes + team.size() - 1) >> team.lanes.log2_width()),
          begin(min(team.rank() * slots, classes)),
          count(min(slots, classes - begin)),
          turn(0),
          output_in_tile(nullptr),
          output_run(nullptr) {
        // Where all lanes have as many elements, those whose first ones share a bank of shared memory
        // begin at different ones. The largest power of two that divides their size and all banks says
        // how many lanes begin at banks of their own.
        constexpr uint32_t kBanksBytes = 128, kBankBytes = 4;
        if (slots * team.size() == classes) {
            const uint32_t bytes = slots * uint32_t(sizeof(T));
            const uint32_t divisor = min(bytes & (0u - bytes), kBanksBytes);
            turn = threadIdx.x % kWarpSize * divisor / kBanksBytes * (kBankBytes / uint32_t(sizeof(T)));
        }
    }

    __device__ __forceinline__ bool has_row() const { return group < rows; }

    // Whether the rows of all lanes lie one behind the other, and the first of them if they do.
    template <typename U>
    __device__ __forceinline__ bool is_run(U *row, U *&first) const {
        first = row - min(group, rows - 1) * classes;
        const auto here = static_cast<unsigned long long>(uintptr_t(first));
        return __all_sync(kFullMask, here == __shfl_sync(kFullMask, here, 0));
    }
};

// A lane's part of a row.
template <typename T, class TermsOfRow>
struct TinyRow {
    using Element = T;
    using Terms = TermsOfRow;
    using Team = TinyTeam;
    static constexpr bool kHasPacks = false;
    static constexpr uint32_t kSlots = XENT_TINY_LANE_ELEMENTS;
    // Slots are gone over by so many.
    static constexpr uint32_t kStep = 2;
    static_assert(kSlots < 32, "a bit for each");

    template <class Shift>
    using State = SoftmaxState<Shift, Terms::kWeights>;

    uint32_t target_position;  // or kNoPosition
    uint32_t count;            // this lane's elements: none of a row that is not read
    uint32_t target_here;      // its place among this lane's elements, or beyond them
    uint32_t others;           // bit i: whether slot i has an element but the target
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
          count(layout.classes == 0 ? 0 : warp_place.count),
          target_here(target_at - warp_place.begin),
          // Where slots are turned they all have an element.
          others((1u << count) - 1),
          transform{by},
          terms(row_terms),
          team(row_team),
          place(warp_place),
          x{},  // else registers would be kept for what it was for the row before
          target(-INFINITY) {
        if (Terms::kHasTarget && target_here < count) others &= ~(1u << (target_here ^ warp_place.turn));
        const bool reads = layout.classes != 0;
        const T *first;
        const bool is_run = place.is_run(input, first);
        if (!__any_sync(kFullMask, reads)) return;
        if (is_run) {
            place.tile.load(first, place.rows);
        } else {
            first = nullptr;
            place.tile.load_row(input, place.has_row() && reads, place.group, team);
        }
        if (!reads) return;
        const T *const row = place.tile.first(first) + min(place.group, place.rows - 1) * place.classes;
        const T *const mine = row + place.begin;
        for_each_slot([&](uint32_t i, uint32_t at) {
            x[i] = is_other(i, at) ? transform.value(load_one(mine + at)) : -INFINITY;
        });
        if (Terms::kHasTarget) target = transform.value(load_one(row + target_position));
    }

    // do_with(slot, its place among this lane's elements, which can be beyond them).
    template <class Do>
    __device__ __forceinline__ void for_each_slot(const Do &do_with) const {
#pragma unroll
        for (uint32_t first = 0; first < kSlots; first += kStep) {
            if (first >= place.slots) break;
#pragma unroll
            for (uint32_t i = first; i < first + kStep; ++i) do_with(i, i ^ place.turn);
        }
    }

    // Whether a slot has an element but the target.
    __device__ __forceinline__ bool is_other(uint32_t slot, uint32_t at) const {
        return Terms::kHasTarget ? (others >> slot & 1) != 0 : at < count;
    }

    // do_with(x, position) for this lane's elements but the target.
    template <class Do>
    __device__ __forceinline__ void for_each_other(const Do &do_with) const {
        for_each_slot([&](uint32_t i, uint32_t at) {
            if (is_other(i, at)) do_with(x[i], place.begin + at);
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
                const uint32_t at = (first + j) ^ place.turn;
                taken[j] = is_other(first + j, at) && !(pass == Pass::kLater && place.begin + at == excluded);
                some[j] = pass == Pass::kLater && !taken[j] ? -INFINITY : x[first + j];
                if constexpr (Terms::kWeights == Weights::kGiven) {
                    weights[j] = taken[j] ? terms.at(place.begin + at) : 0.0f;
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

    // To the output that is open, from any lane.
    __device__ __forceinline__ void put(uint32_t position, float value) const {
        if (place.has_row()) store_one(place.output_in_tile - place.begin + position, value);
    }

    __device__ __forceinline__ float sloped(float result, float value) const {
        return transform.capped() ? mul_rn(result, transform.cap_slope(value)) : result;
    }

    template <class Output, class Shift>
    __device__ __forceinline__ void write(T *, const Output &output, const Shift &shift) const {
        if (!place.has_row()) return;
        for_each_slot([&](uint32_t i, uint32_t at) {
            if (at >= count) return;
            float result;
            if constexpr (Terms::kWeights == Weights::kGiven) {
                result = output.at(x[i], shift, terms.at(place.begin + at));
            } else {
                result = output.at(x[i], shift);
            }
            store_one(place.output_in_tile + at, sloped(result, x[i]));
        });
        if constexpr (Terms::kHasTarget) {
            // By the lane that has written it like the others.
            if (target_here < count) {
                store_one(place.output_in_tile + target_here, sloped(output.target, target));
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
    static constexpr bool kSharesWarps = true;
    static constexpr bool kHasTwoLaunches = false;
    static constexpr bool kLooksAhead = false;
    static constexpr uint32_t kDividedSlots = kWarps;

    struct Storage {};

    TinyTeam team;
    TinyPlace<T> place;

    __device__ __forceinline__ TinyStrategy(Storage &, uint4 *shared, const XentGeometry &geometry,
                                            uint32_t classes)
        : team{{LaneGroup(geometry.lanes_per_row)}},
          place(Tile<T>(shared, kWarpSize >> team.lanes.log2_width(), classes), team, classes) {}

    // As BlockStrategy's; all lanes of a warp call `body` together, and may part within it.
    template <class Summary, class Body, class Report>
    __device__ __forceinline__ void for_each_row(uint64_t rows, const Body &body,
                                                 const Report &report) {
        const uint32_t rows_of_warp = kWarpSize >> team.lanes.log2_width();
        const uint64_t step = uint64_t(gridDim.x) * kWarps * rows_of_warp;
        uint64_t first = (uint64_t(blockIdx.x) * kWarps + slot()) * rows_of_warp;
        for (; first < rows; first += step) {
            place.rows = uint32_t(min(uint64_t(rows_of_warp), rows - first));
            const uint64_t row = first + min(place.group, place.rows - 1);
            body(row, [&](const Summary &summary) {
                const bool speaks = team.speaks() && place.has_row();
                report(summary, Speakers::of_groups(first, place.rows, row, speaks));
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
        T *first;
        place.output_run = place.is_run(to, first) ? first : nullptr;
        place.output_in_tile =
            place.tile.first(place.output_run) + place.group * place.classes + place.begin;
        // All lanes have read the tile; below it is overwritten.
        __syncwarp();
    }
    __device__ __forceinline__ void close_output(T *to) const {
        if (place.output_run != nullptr) {
            place.tile.store(place.output_run, place.rows);
        } else {
            place.tile.store_row(to, place.has_row(), place.group, team);
        }
    }

    __device__ __forceinline__ void write_zeros(T *, uint32_t) const {
        if (!place.has_row()) return;
        for (uint32_t at = 0; at < place.count; ++at) store_one(place.output_in_tile + at, 0.0f);
    }

    // Every warp finds what it needs.
    __device__ __forceinline__ bool finds() const { return true; }
    __device__ __forceinline__ uint32_t slot() const { return threadIdx.x / kWarpSize; }
};

}  // namespace xent
