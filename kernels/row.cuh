// A row that a team of threads goes over twice, or once: from stored logits to values, into a state, and to
// outputs; under all strategies but tiny. Knows no loss: what multiplies an element is `Terms` (terms.cuh), what is
// stored is `Output` (row_loss.cuh). Where the row is between the passes is `Packs`, who takes part is
// `Team` (reduce.cuh).
//
// Shapes: input and output [rows, classes] with any row strides and any base alignment.
// Parallelism: packs as `Packs` gives them out. What cannot be handled in packs, the row's edges and the
//     pack around the target, goes one or a few elements a thread to one warp of the team, which keeps it in
//     registers between the passes: no pack is ever compared with the target's place element by element, and the
//     target never enters a sum.
// Invariants: 16-byte access to the input wherever the row allows, and to the output if its row is cut as
//     the input row is, else element by element. In place is safe: a thread overwrites only what it alone
//     has left to read.
#pragma once

#include <stdint.h>

#include <type_traits>

#include "abi.h"
#include "dtype.cuh"
#include "pack_batch.cuh"
#include "softmax_state.cuh"
#include "terms.cuh"
#include "vector.cuh"

namespace xent {

// A pass over a row: the first one brings it from memory; a later one finds what was kept, and can leave an
// element out. Rows that need one are rare with a class target, huge logits alone, and not
// without: those in which one class has most of the probability.
enum class Pass { kFirst, kLater };

constexpr uint32_t kNoPosition = UINT32_MAX;

// What a pass loads beside a row's packs, where there is nothing.
struct Nothing {};

template <typename T, class TermsOfRow, class TeamOfRow, class PacksOfRow>
struct Row {
    using Element = T;
    using Terms = TermsOfRow;
    using Team = TeamOfRow;
    using Packs = PacksOfRow;
    static constexpr bool kHasPacks = true;
    static constexpr uint32_t kSize = kPackSize<T>;
    // Elements of a pack around a target.
    static constexpr uint32_t kTargetPack = Terms::kHasTarget ? kSize : 0;
    // Whether packs are compared with the maximum before they are taken apart.
    static constexpr bool kCompares = !Terms::kKnowsCap && kComparesPacks<T>;
    // Single elements of a thread, at most: of two edges and that pack.
    static constexpr uint32_t kSingles =
        (2 * kSize - 2 + kTargetPack + Team::kFewestThreads - 1) / Team::kFewestThreads;

    template <class Shift>
    using State = SoftmaxState<Shift, Terms::kWeights>;
    // A single element as it lies in memory, which is on its way until it is used; where it may have to be
    // transformed, its value, so that this is done once.
    using Single = std::conditional_t<Terms::kKnowsCap, float, T>;

    const T *input;
    RowLayout<T> layout;
    uint32_t target_position;  // or kNoPosition
    uint32_t target_pack;      // or kNoPack
    uint32_t single_position[kSingles];  // of this thread's single elements, or kNoPosition
    Single single[kSingles];
    float single_weight[kSingles];
    LogitTransform<Terms::kKnowsCap> transform;
    Terms terms;
    Team &team;
    Packs packs;  // all of this thread's but the target's

    // `target` is a position in the row, or kNoPosition; `place` is what `Packs` are made of beside the row.
    template <class Place>
    __device__ __forceinline__ Row(const T *row, const RowLayout<T> &row_layout,
                                   const Terms &row_terms, const XentTransform &by, uint32_t target,
                                   Team &row_team, Place &place)
        : input(row),
          layout(row_layout),
          target_position(target),
          target_pack(Terms::kHasTarget ? layout.pack_of(target) : kNoPack),
          transform{by},
          terms(row_terms),
          team(row_team),
          packs(layout.body(row), layout.packs, target_pack, place) {}

    // Before anything else: packs are on their way, and so are these.
    __device__ __forceinline__ void load_singles() {
#pragma unroll
        for (uint32_t i = 0; i < kSingles; ++i) {
            single_position[i] = kNoPosition;
            single[i] = Single(0.0f);
            single_weight[i] = 1.0f;
        }
#pragma unroll
        for (uint32_t i = 0; i < kSingles && !ends(i); ++i) load_single(i);
    }

    // The edges that this thread's block takes: all or none.
    __device__ __forceinline__ uint32_t edges() const {
        return packs.has_edges() ? layout.edges() : 0;
    }

    // Whether no thread of the team has a single element i: nearly always where i > 0 and the row begins
    // at a pack.
    __device__ __forceinline__ bool ends(uint32_t i) const {
        return i > 0 && i * team.size() >= edges() + kTargetPack;
    }

    // Single elements lie side by side: the edges, then the target's pack.
    __device__ __forceinline__ void load_single(uint32_t i) {
        const uint32_t at = i * team.size() + team.rank();
        const uint32_t beyond_edges = at - edges();  // wraps for an edge
        if (at < edges()) {
            single_position[i] = layout.edge(at);
        } else if (packs.takes(target_pack) && beyond_edges < kSize) {
            single_position[i] = layout.start_of(target_pack) + beyond_edges;
        } else {
            return;
        }
        single_weight[i] = terms.at(single_position[i]);
        if constexpr (Terms::kKnowsCap) {
            single[i] = transform.value(load_one(input + single_position[i]));
            if (is_target(single_position[i])) team.share_target(single[i]);
        } else {
            single[i] = input[single_position[i]];
        }
    }

    __device__ __forceinline__ float single_value(uint32_t i) const {
        if constexpr (Terms::kKnowsCap) {
            return single[i];
        } else {
            return widen(single[i]);
        }
    }

    // do_with(i) for this thread's single elements.
    template <class Do>
    __device__ __forceinline__ void for_each_single(const Do &do_with) const {
#pragma unroll
        for (uint32_t i = 0; i < kSingles && !ends(i); ++i) {
            if (single_position[i] != kNoPosition) do_with(i);
        }
    }

    __device__ __forceinline__ bool is_target(uint32_t position) const {
        return Terms::kHasTarget && position == target_position;
    }

    // After a merge, from whoever has it.
    __device__ __forceinline__ float target_value() const {
        const uint32_t in_pack = target_position - layout.start_of(target_pack);
        const uint32_t in_edges =
            target_position < layout.head ? target_position : target_position - layout.packs * kSize;
        const uint32_t at = target_pack == kNoPack ? in_edges : layout.edges() + in_pack;
        float mine = single_value(0);
        uint32_t owner = at;
#pragma unroll
        for (uint32_t i = 1; i < kSingles; ++i) {
            if (at >= i * team.size()) {
                mine = single_value(i);
                owner = at - i * team.size();
            }
        }
        return team.shared_target(mine, owner, packs.owner_of(target_pack));
    }

    // From memory, without a merge.
    __device__ __forceinline__ float load_target() const {
        return transform.value(load_one(input + target_position));
    }

    __device__ __forceinline__ void values_of(uint4 bits, float (&x)[kSize]) const {
        unpack<T>(bits, x);
        if (transform.capped()) {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) x[i] = transform.value(x[i]);
        }
    }

    // ------------------------------------------------------------ into a state

    // Takes every element of this thread but the target into `state`; a later pass also without the one
    // at `excluded`.
    template <Pass pass, class AnyState>
    __device__ __forceinline__ void accumulate(AnyState &state, uint32_t excluded = kNoPosition) {
        // Of a later pass, the maximum is known.
        if constexpr (pass == Pass::kFirst && kCompares && Packs::kAtHand) {
            add_at_hand(state);
        } else if constexpr (pass == Pass::kFirst && kCompares) {
            packs.forward_in_batches(
                [&](const auto &batch, auto which) { add_batch(state, batch, which); });
        } else {
            packs.template forward<pass>([&](uint32_t index, uint4 bits) {
                add_pack<pass>(state, index, bits, excluded);
            });
        }
        add_singles<pass>(state, excluded);
    }

    // All packs at once: their maximum is known before the first of them is taken.
    template <class AnyState>
    __device__ __forceinline__ void add_at_hand(AnyState &state) const {
        state.raise(packs.largest(), kSomePack);
        packs.for_each_at_hand([&](uint32_t, uint4 bits, uint32_t there) {
            float x[kSize];
            unpack<T>(bits, x);
            state.add_below(x, there != 0);
        });
    }

    // XENT_PACKS_AT_ONCE of which raise the maximum once; the place is that of the first one there is: the target's pack
    // would be taken for a single element.
    template <class AnyState, uint32_t kCount, class Which>
    __device__ __forceinline__ void add_batch(AnyState &state, const PackBatch<kCount> &batch,
                                              Which) const {
        static_assert(XENT_PACKS_AT_ONCE == 2, "one or the other is there");
#pragma unroll
        for (uint32_t start = 0; start < kCount; start += XENT_PACKS_AT_ONCE) {
            uint4 elements = Which::kAll ? batch.bits[start] : lowest_pack<T>();
#pragma unroll
            for (uint32_t i = Which::kAll ? 1 : 0; i < XENT_PACKS_AT_ONCE; ++i) {
                if (Which::kAll || batch.has(start + i)) {
                    elements = larger<T>(elements, batch.bits[start + i]);
                }
            }
            const bool has_first = Which::kAll || batch.has(start);
            const uint32_t place = layout.start_of(batch.index(has_first ? start : start + 1));
            state.raise(largest_of<T>(elements), place);
#pragma unroll
            for (uint32_t i = 0; i < XENT_PACKS_AT_ONCE; ++i) {
                if (Which::kAll || batch.has(start + i)) {
                    float x[kSize];
                    unpack<T>(batch.bits[start + i], x);
                    state.add_below(x, true);
                }
            }
        }
    }

    template <Pass pass, class AnyState>
    __device__ __forceinline__ void add_singles(AnyState &state, uint32_t excluded) const {
        for_each_single([&](uint32_t i) {
            const uint32_t position = single_position[i];
            if constexpr (!Terms::kKnowsCap) {
                // For whoever merges it.
                if (pass == Pass::kFirst && is_target(position)) team.share_target(single_value(i));
            }
            if (is_target(position) || (pass == Pass::kLater && position == excluded)) return;
            const float one[1] = {single_value(i)};
            if constexpr (Terms::kWeights == Weights::kGiven) {
                const float weight[1] = {single_weight[i]};
                state.add(one, weight, position);
            } else {
                state.add(one, position);
            }
        });
    }

    template <Pass pass, class AnyState>
    __device__ __forceinline__ void add_pack(AnyState &state, uint32_t index, uint4 bits,
                                             uint32_t excluded) const {
        float x[kSize];
        values_of(bits, x);
        const uint32_t position = layout.start_of(index);
        const uint32_t left_out = excluded - position;
        if (pass == Pass::kLater && left_out < kSize) {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) x[i] = i == left_out ? -INFINITY : x[i];
        }
        if (!terms.given()) {
            state.add(x, position);
        } else if constexpr (Terms::kWeights == Weights::kGiven) {
            float v[kSize];
            weights_of<pass>(index, v);
            // Only rows without a target leave one out, and theirs are given.
            if (pass == Pass::kLater && left_out < kSize) {
#pragma unroll
                for (uint32_t i = 0; i < kSize; ++i) v[i] = i == left_out ? 0.0f : v[i];
            }
            state.add(x, v, position);
        }
    }

    // Weights that come from memory as the logits do are kept as those are.
    template <Pass pass>
    __device__ __forceinline__ void weights_of(uint32_t index, float (&v)[kSize]) const {
        if (Terms::kStreamed && pass == Pass::kLater && packs.is_kept(index)) {
            packs.load_weights(index, v);
            return;
        }
        terms.load(layout.start_of(index), v);
        if (Terms::kStreamed && pass == Pass::kFirst && packs.is_kept(index)) {
            packs.keep_weights(index, v);
        }
    }

    // Calls do_with(position) for all of this thread's elements, one by one; single ones as what they are.
    // For what is cold, where few instructions matter more than time.
    template <class Do>
    __device__ __forceinline__ void for_each_element(const Do &do_with) const {
        const uint32_t first = layout.start_of(packs.begin());
        const uint32_t count = (packs.end() - packs.begin()) * kSize;
#pragma unroll 1
        for (uint32_t i = team.rank(); i < count; i += team.size()) {
            if (packs.begin() + i / kSize != target_pack) do_with(first + i);
        }
    }

    // As `accumulate`, pack by pack from where the row is in memory. Cold.
    template <class AnyState>
    __device__ __forceinline__ void accumulate_slowly(AnyState &state, uint32_t excluded) const {
        const uint4 *const body = layout.body(input);
#pragma unroll 1
        for (uint32_t pack = packs.begin() + team.rank(); pack < packs.end(); pack += team.size()) {
            if (pack != target_pack) add_pack<Pass::kLater>(state, pack, body[pack], excluded);
        }
        add_singles<Pass::kLater>(state, excluded);
    }

    // The lowest position of this thread's elements, the target apart, that have the row's largest value,
    // if `state` is what the thread found of them. What it was compared with at once is looked at again.
    template <class AnyState>
    __device__ __forceinline__ uint32_t lowest_of(const AnyState &state, float row_max) const {
        if (state.max != row_max || state.place == kNoPlace) return kNoPosition;
        // Single elements come last, so an equal one in a pack came before them; not so in the row.
        uint32_t lowest = kNoPosition;
        bool place_is_single = false;
        for_each_single([&](uint32_t i) {
            place_is_single |= state.place == single_position[i];
            if (single_value(i) == row_max && !is_target(single_position[i])) {
                lowest = min(lowest, single_position[i]);
            }
        });
        if (place_is_single) return lowest;
        uint32_t pack = (state.place - layout.head) / kSize, end = packs.end();
        if constexpr (kCompares && Packs::kAtHand) {
            pack = packs.first_with(row_max);
            end = pack + 1;
        }
        // The packs that were compared at once, of which one has it.
#pragma unroll
        for (uint32_t i = 0; i < (kCompares ? XENT_PACKS_AT_ONCE : 1); ++i, pack += team.size()) {
            if (pack >= end) break;
            // Single elements, above; on sm_75 nobody has kept it.
            if (pack == target_pack) continue;
            float x[kSize];
            values_of(packs.fetch(pack), x);
#pragma unroll
            for (uint32_t k = kSize; k-- > 0;) {
                if (x[k] == row_max) lowest = min(lowest, layout.start_of(pack) + k);
            }
        }
        return lowest;
    }

    // The lowest position of this thread's elements that hold NaN. Cold.
    __device__ __forceinline__ uint32_t lowest_nan() const {
        uint32_t lowest = kNoPosition;
        for_each_single([&](uint32_t i) {
            if (single_value(i) != single_value(i)) lowest = min(lowest, single_position[i]);
        });
        for_each_element([&](uint32_t position) {
            const float x = load_one(input + position);
            if (x != x) lowest = min(lowest, position);
        });
        return lowest;
    }

    // ------------------------------------------------------------ to outputs

    template <class Output, class Shift>
    __device__ __forceinline__ void write(T *to, const Output &output, const Shift &shift) const {
        if (!same_alignment<T>(input, to)) {
            write_slowly(to, output, shift);
            return;
        }
        uint4 *const packs_to = layout.body(to);
        if constexpr (kCompares && Packs::kAtHand) {
            packs.for_each_at_hand([&](uint32_t index, uint4 bits, uint32_t there) {
                store_pack_if(there, packs_to + index, outputs_of(index, bits, output, shift));
            });
            write_singles(to, output, shift);
            return;
        }
        packs.backward([](uint32_t) { return Nothing(); },
                       [&](uint32_t index, uint4 bits, Nothing) {
                           packs_to[index] = outputs_of(index, bits, output, shift);
                       });
        write_singles(to, output, shift);
    }

    // From the bits of a pack to those of its outputs. The branches are the same for the whole grid.
    template <class Output, class Shift>
    __device__ __forceinline__ uint4 outputs_of(uint32_t index, uint4 bits, const Output &output,
                                                const Shift &shift) const {
        float values[kSize], slopes[kSize];
        values_of(bits, values);
        if (transform.capped()) {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) slopes[i] = transform.cap_slope(values[i]);
        }
        if (!terms.given()) {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) values[i] = output.at(values[i], shift);
        } else if constexpr (Terms::kWeights == Weights::kGiven) {
            float v[kSize];
            weights_of<Pass::kLater>(index, v);
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) values[i] = output.at(values[i], shift, v[i]);
        }
        if (transform.capped()) {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) values[i] = mul_rn(values[i], slopes[i]);
        }
        return pack<T>(values);
    }

    // As `write`, element by element from where the row is in memory: for an output row that is not cut as
    // the input row is, and for what is rare.
    template <class Output, class Shift>
    __device__ __forceinline__ void write_slowly(T *to, const Output &output,
                                                 const Shift &shift) const {
        for_each_element([&](uint32_t position) {
            const float value = transform.value(load_one(input + position));
            store_one(to + position, output_of(position, value, terms.at(position), output, shift));
        });
        write_singles(to, output, shift);
    }

    template <class Output, class Shift>
    __device__ __forceinline__ void write_singles(T *to, const Output &output,
                                                  const Shift &shift) const {
        for_each_single([&](uint32_t i) {
            const uint32_t position = single_position[i];
            store_one(to + position,
                      output_of(position, single_value(i), single_weight[i], output, shift));
        });
    }

    template <class Output, class Shift>
    __device__ __forceinline__ float output_of(uint32_t position, float value, float weight,
                                               const Output &output, const Shift &shift) const {
        float result;
        if constexpr (Terms::kWeights == Weights::kGiven) {
            result = output.at(value, shift, weight);
        } else {
            result = output.at(value, shift);
        }
        if constexpr (Terms::kHasTarget) {
            if (is_target(position)) result = output.target;
        }
        return transform.capped() ? mul_rn(result, transform.cap_slope(value)) : result;
    }

    // Whether rows that need the exact shift are finished by another block alone.
    __device__ __forceinline__ static constexpr bool leaves_exact() { return false; }

    // Puts one element right that was written like the others. Called by all threads of the team.
    __device__ __forceinline__ void mend(T *to, uint32_t position, float value) {
        const uint32_t pack = layout.pack_of(position);
        // Whichever thread of this block has written it like the others.
        team.separate_block();
        const bool mine = pack == kNoPack ? packs.has_edges() : packs.takes(pack);
        if (mine && team.rank() == 0) store_one(to + position, value);
    }
};

}  // namespace xent
