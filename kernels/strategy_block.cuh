// One block a row, any number of classes: who loads what, who reduces with whom, who stores what.
// Knows no loss: what multiplies an element is `Terms` (terms.cuh), what is stored is `Output`.
//
// Shapes: input and output [rows, classes] with any row strides and any base alignment.
// Traffic: with b bytes an element and the row in shared memory, b * classes read and as many
//     written; what does not fit shared memory is read a second time, in the opposite order, so
//     that what the L2 cache still holds comes first.
// Parallelism: pack i of a row belongs to thread i % blockDim.x in both passes, so that a thread
//     reads back from shared memory only what it put there. What cannot be handled in packs, the
//     row's edges and the pack around the target, goes one element a lane to the first warp, which
//     keeps it in registers between the passes: no pack is ever compared with the target's place
//     element by element.
// Invariants: 16-byte access to the input wherever the row allows, and to the output if its row is
//     cut as the input row is, else element by element. In place is safe: a thread overwrites only
//     what it alone has left to read, if all have read the target before a barrier.
#pragma once

#include <stdint.h>

#include <type_traits>

#include "abi.h"
#include "dtype.cuh"
#include "reduce.cuh"
#include "softmax_state.cuh"
#include "terms.cuh"
#include "vector.cuh"

namespace xent {

// A pass over a row: the first one fills the cache; a later one finds there what it has room for, and can
// leave an element out. Rows that need one are rare with a class target, huge logits alone, and not
// without: those in which one class has most of the probability.
enum class Pass { kFirst, kLater };

constexpr uint32_t kNoPosition = UINT32_MAX;

template <typename T, class Terms>
struct BlockRow {
    static constexpr uint32_t kSize = kPackSize<T>;
    // Two edges and a pack: every single element has a lane of the first warp.
    static_assert(3 * kSize - 2 <= kWarpSize, "single elements need a lane each");
    // Weights of a pack in flight, and 16-byte parts of them.
    static constexpr uint32_t kStreamedSize = Terms::kStreamed ? kSize : 1;
    static constexpr uint32_t kWeightParts = kSize * sizeof(float) / XENT_PACK_BYTES;

    template <class Shift>
    using State = SoftmaxState<Shift, Terms::kWeights>;

    const T *input;
    RowLayout<T> layout;
    const uint4 *body;         // of the input
    uint4 *cache;
    uint32_t cached;           // packs [0, cached) of the body are kept in `cache`
    uint32_t target_position;  // or kNoPosition
    uint32_t target_pack;      // or kNoPack
    uint32_t single_position;  // this thread's single element, or kNoPosition
    float single;              // its value
    float single_weight;
    LogitTransform<Terms::kKnowsCap> transform;
    Terms terms;

    // `target` is a position in the row, or kNoPosition.
    __device__ __forceinline__ BlockRow(const T *row, const RowLayout<T> &row_layout,
                                        const Terms &row_terms, const XentTransform &by,
                                        uint32_t target, uint4 *shared, uint32_t cached_packs)
        : input(row),
          layout(row_layout),
          body(layout.body(row)),
          cache(shared),
          cached(cached_packs),
          target_position(target),
          target_pack(Terms::kHasTarget ? layout.pack_of(target) : kNoPack),
          single_position(kNoPosition),
          single(0.0f),
          single_weight(1.0f),
          transform{by},
          terms(row_terms) {
        const uint32_t beyond_edges = threadIdx.x - layout.edges();  // wraps for an edge
        if (threadIdx.x < layout.edges()) {
            single_position = layout.edge(threadIdx.x);
        } else if (target_pack != kNoPack && beyond_edges < kSize) {
            single_position = layout.start_of(target_pack) + beyond_edges;
        }
        if (single_position != kNoPosition) {
            single = transform.value(load_one(input + single_position));
            single_weight = terms.at(single_position);
        }
    }

    __device__ __forceinline__ float target_value() const {
        return transform.value(load_one(input + target_position));
    }

    __device__ __forceinline__ void values_of(uint4 bits, float (&x)[kSize]) const {
        unpack<T>(bits, x);
        if (transform.capped()) {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) x[i] = transform.value(x[i]);
        }
    }

    __device__ __forceinline__ bool is_target(uint32_t position) const {
        return Terms::kHasTarget && position == target_position;
    }

    // Whether there is such a pack, and it is not the one that is handled element by element.
    __device__ __forceinline__ bool in_packs(uint32_t index) const {
        return index < layout.packs && (!Terms::kHasTarget || index != target_pack);
    }

    template <Pass pass>
    __device__ __forceinline__ uint4 fetch(uint32_t index) const {
        return pass == Pass::kLater && index < cached ? cache[index] : body[index];
    }

    // Behind the cached packs, in planes of 16 bytes a pack, so that neighbours do not share banks.
    __device__ __forceinline__ float4 *cached_weights(uint32_t part, uint32_t index) const {
        return reinterpret_cast<float4 *>(cache) + (1 + part) * cached + index;
    }

    template <Pass pass>
    __device__ __forceinline__ void fetch_weights(uint32_t index, float (&v)[kSize]) const {
        if (Terms::kStreamed && pass == Pass::kLater && index < cached) {
#pragma unroll
            for (uint32_t part = 0; part < kWeightParts; ++part) {
                const float4 four = *cached_weights(part, index);
                v[4 * part] = four.x;
                v[4 * part + 1] = four.y;
                v[4 * part + 2] = four.z;
                v[4 * part + 3] = four.w;
            }
        } else {
            terms.load(layout.start_of(index), v);
        }
    }

    __device__ __forceinline__ void keep(uint32_t index, uint4 bits, const float *v) const {
        cache[index] = bits;
        if (Terms::kStreamed) {
#pragma unroll
            for (uint32_t part = 0; part < kWeightParts; ++part) {
                *cached_weights(part, index) = make_float4(v[4 * part], v[4 * part + 1],
                                                           v[4 * part + 2], v[4 * part + 3]);
            }
        }
    }

    // Takes every element of this thread but the target into `state`, first pack first; a later pass
    // also without the one at `excluded`.
    template <Pass pass, class Shift>
    __device__ __forceinline__ void accumulate(State<Shift> &state,
                                               uint32_t excluded = kNoPosition) const {
        constexpr uint32_t kBatch = pass == Pass::kFirst ? Terms::kPacksInFlight : 1;
        for (uint32_t start = threadIdx.x; start < layout.packs; start += kBatch * blockDim.x) {
            uint4 batch[kBatch];
            float streamed[kBatch][kStreamedSize];
#pragma unroll
            for (uint32_t i = 0; i < kBatch; ++i) {
                const uint32_t index = start + i * blockDim.x;
                if (in_packs(index)) {
                    batch[i] = fetch<pass>(index);
                    if constexpr (Terms::kStreamed) fetch_weights<pass>(index, streamed[i]);
                }
            }
#pragma unroll
            for (uint32_t i = 0; i < kBatch; ++i) {
                const uint32_t index = start + i * blockDim.x;
                if (in_packs(index)) {
                    if (pass == Pass::kFirst && index < cached) keep(index, batch[i], streamed[i]);
                    float x[kSize];
                    values_of(batch[i], x);
                    const uint32_t position = layout.start_of(index);
                    if (pass == Pass::kLater && excluded - position < kSize) {
                        leave_out(excluded - position, x, streamed[i]);
                    }
                    if constexpr (Terms::kStreamed) {
                        state.add(x, streamed[i], position);
                    } else if (terms.given()) {
                        float v[kSize];
                        terms.load(position, v);
                        state.add(x, v, position);
                    } else {
                        state.add(x, position);
                    }
                }
            }
        }
        if (single_position != kNoPosition && !is_target(single_position) &&
            !(pass == Pass::kLater && single_position == excluded)) {
            const float one[1] = {single};
            const float weight[1] = {single_weight};
            state.add(one, weight, single_position);
        }
    }

    // Makes one element of a pack count for nothing. Only rows without a target have one to leave out:
    // their weights are streamed, or not kept.
    __device__ __forceinline__ static void leave_out(uint32_t which, float (&x)[kSize],
                                                     float (&v)[kStreamedSize]) {
#pragma unroll
        for (uint32_t i = 0; i < kSize; ++i) {
            if (i == which) x[i] = -INFINITY;
            if (Terms::kStreamed && i == which) v[i % kStreamedSize] = 0.0f;
        }
    }

    // The lowest position of this thread's elements, the target apart, that have the row's largest
    // value; from the state that `accumulate` left. One pack is looked at again.
    template <class State>
    __device__ __forceinline__ uint32_t lowest_of(const State &state, float row_max) const {
        if (state.max != row_max || state.place == kNoPlace) return kNoPosition;
        // The single element comes last, so an equal one in a pack came before it; not so in the row.
        const bool single_is_one = single_position != kNoPosition && single == row_max;
        uint32_t lowest = single_is_one ? single_position : kNoPosition;
        if (state.place == single_position) return lowest;
        float x[kSize];
        values_of(fetch<Pass::kLater>((state.place - layout.head) / kSize), x);
#pragma unroll
        for (uint32_t i = kSize; i-- > 0;) {
            if (x[i] == row_max) lowest = min(lowest, state.place + i);
        }
        return lowest;
    }

    // The lowest position of this thread's elements that hold NaN. Cold.
    __device__ __forceinline__ uint32_t lowest_nan(uint32_t classes) const {
        for (uint32_t position = threadIdx.x; position < classes; position += blockDim.x) {
            const float x = load_one(input + position);
            if (x != x) return position;
        }
        return kNoPosition;
    }

    // Writes this thread's outputs in packs, last pack first.
    template <class Output, class Shift>
    __device__ __forceinline__ void write_packs(T *to, const Output &output,
                                                const Shift &shift) const {
        // The exact shift is rare.
        constexpr uint32_t kBatch =
            std::is_same_v<Shift, ExactShift> ? 1 : Terms::kPacksInFlight;
        uint4 *packs = layout.body(to);
        const uint32_t stride = kBatch * blockDim.x;
        const uint32_t rounds = (layout.packs + stride - 1) / stride;
        for (uint32_t round = rounds; round-- > 0;) {
            const uint32_t start = round * stride + threadIdx.x;
            uint4 batch[kBatch];
#pragma unroll
            for (uint32_t i = kBatch; i-- > 0;) {
                const uint32_t index = start + i * blockDim.x;
                if (in_packs(index)) batch[i] = fetch<Pass::kLater>(index);
            }
#pragma unroll
            for (uint32_t i = kBatch; i-- > 0;) {
                const uint32_t index = start + i * blockDim.x;
                if (in_packs(index)) {
                    float values[kSize];
                    values_of(batch[i], values);
                    outputs_of(index, values, output, shift);
                    packs[index] = pack<T>(values);
                }
            }
        }
        if (single_position != kNoPosition) {
            store_one(to + single_position,
                      output_of(single_position, single, single_weight, output, shift));
        }
    }

    // From the values of a pack to its outputs. The branches are the same for the whole grid.
    template <class Output, class Shift>
    __device__ __forceinline__ void outputs_of(uint32_t index, float (&values)[kSize],
                                               const Output &output, const Shift &shift) const {
        float slopes[kSize];
        if (transform.capped()) {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) slopes[i] = transform.cap_slope(values[i]);
        }
        if (!terms.given()) {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) values[i] = output.at(values[i], shift);
        } else if constexpr (Terms::kWeights == Weights::kGiven) {
            float v[kSize];
            fetch_weights<Pass::kLater>(index, v);
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) values[i] = output.at(values[i], shift, v[i]);
        }
        if (transform.capped()) {
#pragma unroll
            for (uint32_t i = 0; i < kSize; ++i) values[i] = mul_rn(values[i], slopes[i]);
        }
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

    // The same for an output row that is not cut as the input row is: element by element.
    template <class Output, class Shift>
    __device__ __forceinline__ void write_elements(T *to, const Output &output, const Shift &shift,
                                                   uint32_t classes) const {
        // Each thread cached its own packs before the merge, which is a barrier; here they are read
        // by whoever needs them.
        const T *cached_body = reinterpret_cast<const T *>(cache);
        for (uint32_t position = threadIdx.x; position < classes; position += blockDim.x) {
            const uint32_t in_body = position - layout.head;  // wraps for the head
            const uint32_t index = in_body / kSize;
            const bool is_cached = index < cached && in_packs(index);
            // Two loads rather than one of a chosen address: each knows its kind of memory.
            const float x =
                is_cached ? load_one(cached_body + in_body) : load_one(input + position);
            store_one(to + position, output_of(position, transform.value(x), terms.at(position),
                                               output, shift));
        }
    }

    template <class Output, class Shift>
    __device__ __forceinline__ void write(T *to, const Output &output, const Shift &shift,
                                          uint32_t classes) const {
        if (same_alignment<T>(input, to)) {
            write_packs(to, output, shift);
        } else {
            write_elements(to, output, shift, classes);
        }
    }
};

// An output row without an input. Reads nothing.
template <typename T>
__device__ __forceinline__ void write_zeros(T *to, uint32_t classes) {
    const RowLayout<T> layout(to, classes);
    const uint4 zeros = make_uint4(0, 0, 0, 0);
    for (uint32_t index = threadIdx.x; index < layout.packs; index += blockDim.x) {
        layout.body(to)[index] = zeros;
    }
    if (threadIdx.x < layout.edges()) store_one(to + layout.edge(threadIdx.x), 0.0f);
}

}  // namespace xent
