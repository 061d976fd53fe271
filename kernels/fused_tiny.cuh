// The loss and the gradient of short rows, together or apart: what fused_loss.cuh does for the other strategies.
//
// Computes, Shapes: as fused_loss.cuh.
// Traffic, Parallelism: strategy_tiny.cuh. A row is little work, so what is done once a row decides: the lanes
//     of a warp go through it in step, those of rows that are not read with zeros in place of logits, so that
//     nothing waits for a branch that only some of them take, and shuffles are among all of them.
// Invariants: as fused_loss.cuh. The target's logit leaves the tile before the row's sums are formed: -inf enters
//     none of them.
#pragma once

#include <stdint.h>

#include <type_traits>

#include "abi.h"
#include "cluster.cuh"
#include "dtype.cuh"
#include "fused_loss.cuh"
#include "normalizer.cuh"
#include "reduce.cuh"
#include "row_loss.cuh"
#include "softmax_state.cuh"
#include "targets.cuh"
#include "terms.cuh"
#include "tile.cuh"
#include "vector.cuh"

namespace xent {

// A lane's part of a row, in the tile. All lanes of the warp call its functions together.
template <typename T, class Terms>
struct FusedTinyRow {
    const Tile<T> &tile;
    const Terms &terms;
    LogitTransform<Terms::kKnowsCap> transform;
    uint32_t y;    // the target's class
    float target;  // its value

    // Takes the target out of the row. A row that is not read is one of zeros.
    __device__ __forceinline__ FusedTinyRow(const Tile<T> &warp_tile, const Terms &row_terms,
                                            const XentTransform &by, uint32_t target_class, bool reads)
        : tile(warp_tile), terms(row_terms), transform{by}, y(target_class), target(0.0f) {
        if (!__all_sync(kFullMask, reads) && !reads) tile.fill_with_zeros();
        if (reads) target = transform.value(load_one(&tile.at(y)));
        // All lanes of the row have it.
        __syncwarp();
        if (has_target()) store_one(&tile.at(y), -INFINITY);
    }

    __device__ __forceinline__ bool has_target() const { return y - tile.begin < tile.count; }

    // The values of a chunk; -inf for the target, and for what is missing.
    template <class Chunk>
    __device__ __forceinline__ void load(const Chunk &chunk, float (&x)[Chunk::kLength]) const {
        chunk.load(x);
        if (transform.capped()) {
#pragma unroll
            for (uint32_t i = 0; i < Chunk::kLength; ++i) {
                const bool is_other = chunk.has(i) && chunk.position + i != y;
                x[i] = is_other ? transform.value(x[i]) : -INFINITY;
            }
        }
    }

    // Their weights; 0 for the same.
    template <class Chunk>
    __device__ __forceinline__ void weights_of(const Chunk &chunk, float (&v)[Chunk::kLength]) const {
        if constexpr (Chunk::kRun >= 4) {
            if (terms.given()) {
                terms.load(chunk.position, v);
            } else {
#pragma unroll
                for (uint32_t i = 0; i < Chunk::kLength; ++i) v[i] = 1.0f;
            }
        } else {
#pragma unroll
            for (uint32_t i = 0; i < Chunk::kLength; ++i) {
                v[i] = chunk.has(i) ? terms.at(chunk.position + i) : 0.0f;
            }
        }
#pragma unroll
        for (uint32_t i = 0; i < Chunk::kLength; ++i) v[i] = chunk.position + i == y ? 0.0f : v[i];
    }

    __device__ __forceinline__ float max() const {
        float largest = target;
        tile.for_each_chunk([&](const auto &chunk) {
            float x[std::decay_t<decltype(chunk)>::kLength];
            load(chunk, x);
            largest = fmaxf(largest, max_of(x));
        });
        return max_among(tile.lanes, largest);
    }

    // With exponentials of a shift by the row's largest value.
    template <class Shift>
    __device__ __forceinline__ RowSoftmax softmax(const XentTransform &by, float row_max) const {
        SoftmaxState<Shift, Terms::kWeights> state(by, row_max);
        tile.for_each_chunk([&](const auto &chunk) {
            constexpr uint32_t kLength = std::decay_t<decltype(chunk)>::kLength;
            float x[kLength];
            load(chunk, x);
            if constexpr (Terms::kWeights == Weights::kGiven) {
                float v[kLength];
                weights_of(chunk, v);
                state.add_up_to_max(x, v);
            } else {
                bool taken[kLength];
#pragma unroll
                for (uint32_t i = 0; i < kLength; ++i) {
                    taken[i] = chunk.has(i) && chunk.position + i != y;
                }
                state.add_up_to_max(x, taken);
            }
        });
        state = sum_states<kMassAtLast<Terms::kWeights>>(tile.lanes, state);
        if (Terms::kWeights == Weights::kOnes) state.mass = float(tile.classes - 1);
        RowSoftmax found(state, by);
        found.add_target(target, state.shift);
        return found;
    }

    // The lowest class of the largest value. NaN is the largest, as in PyTorch; no maximum shows it.
    __device__ __forceinline__ uint32_t argmax(float row_max) const {
        uint32_t largest = target == row_max ? y : kNoPosition;
        uint32_t nan = target != target ? y : kNoPosition;
        tile.for_each_chunk([&](const auto &chunk) {
            constexpr uint32_t kLength = std::decay_t<decltype(chunk)>::kLength;
            float x[kLength];
            load(chunk, x);
#pragma unroll
            for (uint32_t i = 0; i < kLength; ++i) {
                if (x[i] == row_max && chunk.has(i)) largest = min(largest, chunk.position + i);
                if (x[i] != x[i]) nan = min(nan, chunk.position + i);
            }
        });
        largest = lowest_among(tile.lanes, largest);
        nan = lowest_among(tile.lanes, nan);
        return nan != kNoPosition ? nan : largest;
    }

    __device__ __forceinline__ float sloped(float result, float value) const {
        return transform.capped() ? mul_rn(result, transform.cap_slope(value)) : result;
    }

    // Over the row.
    template <class Shift>
    __device__ __forceinline__ void write(const RowGradient &gradient, const Shift &shift) const {
        const auto write_chunk = [&](const auto &chunk) {
            constexpr uint32_t kLength = std::decay_t<decltype(chunk)>::kLength;
            float x[kLength], results[kLength];
            load(chunk, x);
            if constexpr (Terms::kWeights == Weights::kGiven) {
                float v[kLength];
                weights_of(chunk, v);
#pragma unroll
                for (uint32_t i = 0; i < kLength; ++i) results[i] = gradient.at(x[i], shift, v[i]);
            } else {
#pragma unroll
                for (uint32_t i = 0; i < kLength; ++i) results[i] = gradient.at(x[i], shift);
            }
#pragma unroll
            for (uint32_t i = 0; i < kLength; ++i) results[i] = sloped(results[i], x[i]);
            chunk.store(results);
        };
        if constexpr (std::is_same_v<Shift, ExactShift>) {
            tile.for_each(write_chunk);
        } else {
            tile.for_each_chunk(write_chunk);
        }
        // By the lane that has written it like the others.
        if (has_target()) store_one(&tile.at(y), sloped(gradient.target, target));
    }
};

template <typename T, class Terms>
__device__ __forceinline__ void fused_tiny(const XentFused &p) {
    extern __shared__ uint4 shared[];
    __shared__ XentDivided divided_here[XENT_WARP_BLOCK_THREADS / kWarpSize];
    XentDivided &found = divided_here[threadIdx.x / kWarpSize];
    if (p.divided_source == XENT_DIVIDED_HERE) {
        const XentDivided by = divided_by_targets(p);
        if (threadIdx.x % kWarpSize == 0) found = by;
        // Lane 0 wrote it for its warp.
        __syncwarp();
    }

    Tile<T> tile(shared, p.geometry, p.classes);
    const Terms terms(p, 0, RowLayout<T>(nullptr, 0));
    for (TinyRows rows(p.geometry, p.sums.rows); rows.are_left(); rows.go_on()) {
        tile.rows = rows.count;
        const uint64_t index = rows.first + tile.row_in_memory();
        const Target target = load_target(p.targets, index, p.classes);
        const bool reads = target.kind == TargetKind::kClass && tile.has_row();
        const uint32_t y = reads ? uint32_t(target.value) : 0;

        const T *const logits = logits_row<T>(p, rows.first);
        tile.open(logits, p.logits_row_stride);
        const bool any_reads = __any_sync(kFullMask, reads);
        if (any_reads) tile.load(logits, p.logits_row_stride);
        const FusedTinyRow<T, Terms> row(tile, terms, p.transform, y, reads);

        RowSummary summary{};
        summary.kind = target.kind;
        summary.target = y;
        summary.target_value = row.target;
        RowSoftmax softmax{};
        bool exact = false;
        if (p.saved != nullptr) {
            const XentSavedRow saved = reads ? p.saved[index] : XentSavedRow{};
            exact = is_exact(saved);
            softmax = restored(saved, p.transform, row.target);
        } else if (any_reads) {
            const float max = row.max();
            softmax = row.template softmax<FusedShift>(p.transform, max);
            exact = reads && needs_exact_shift(softmax, FusedShift(p.transform, max),
                                               p.term_weights.smoothing);
            if (__any_sync(kFullMask, exact)) {
                const RowSoftmax again = row.template softmax<ExactShift>(p.transform, max);
                if (exact) softmax = again;
            }
            if (p.row_argmax != nullptr || p.sums.correct != nullptr) {
                summary.argmax = row.argmax(softmax.max);
            }
            summary.saved = {softmax.max, softmax.others, softmax.mass,
                             2 * XENT_NOTHING_APART + (exact ? 1 : 0)};
            summary.shifted_sum = softmax.shifted_sum;
        }

        wait_for_launch_before();
        const XentDivided by = divided(p, found);
        Counted reported{};
        if (p.saved == nullptr) {
            if (tile.has_row() && tile.rank() == 0) {
                report_row<Terms>(p, by, summary, [&] { return softmax; }, index);
            }
            const uint32_t done = rows.counted();
            if (done != 0) reported = counted(p, rows.first, done);
        }
        if (p.gradient == nullptr) {
            settle(p, reported);
            // All lanes have read the tile; the next rows overwrite it.
            __syncwarp();
            continue;
        }

        RowGradient coefficients(
            softmax, row_weights<Terms>(p, y, 0.0f, by.term_weights, by.inverse_divisors.nll));
        const float upstream = p.upstream == nullptr ? 1.0f : p.upstream[index * p.upstream_stride];
        coefficients.scale_by(upstream * p.transform.slope);
        if (!reads) {
            tile.fill_with_zeros();
        } else if (exact) {
            row.write(coefficients, ExactShift(p.transform, softmax.max));
        } else {
            row.write(coefficients, FusedShift(p.transform, softmax.max));
        }
        tile.store(gradient_row<T>(p, rows.first), p.gradient_row_stride);
        settle(p, reported);
    }
}

}  // namespace xent
