// Log-softmax of rows, or softmax, and its gradient, under any strategy.
//
// Computes: log_softmax: output[k] = x_k - lse, or exp(x_k - lse).
//     log_softmax_backward: gradient[k] = g_k - p_k sum_j g_j, with p from log-probabilities, or from
//     logits and what the forward pass saved; of a class that it kept apart,
//     gradient[y] = (1 - p_y) g_y - p_y sum_{j != y} g_j, where nothing cancels as p_y -> 1.
// Shapes: all matrices [rows, classes] with any row strides and any base alignment.
// Traffic: with b bytes an element, forward b * classes read and as many written; backward 2 b * classes
//     read, b * classes written; more where the strategy reads twice.
// Parallelism: the strategy's. Backward goes twice over the upstream gradient, and cuts rows as it is cut:
//     the other matrices are accessed in packs where they are cut alike.
// Invariants: NaN and +inf in a row make all of its outputs NaN; -inf gives -inf, or 0. log p keeps its
//     digits as p -> 1, as long as they can be stored.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "dtype.cuh"
#include "reduce.cuh"
#include "row.cuh"
#include "row_loss.cuh"
#include "softmax_state.cuh"
#include "speakers.cuh"
#include "terms.cuh"
#include "vector.cuh"

namespace xent {

// One row of the forward pass by its team, all of whose threads call it.
template <class Row>
struct LogSoftmaxRow {
    using T = typename Row::Element;
    template <class Shift>
    using State = typename Row::template State<Shift>;

    Row &row;
    RowSoftmax softmax;
    bool exact;      // whether exponentials are formed with the exact shift
    uint32_t apart;  // the class that is kept apart, or kNoPosition

    __device__ __forceinline__ explicit LogSoftmaxRow(Row &row_of_team)
        : row(row_of_team), exact(false), apart(kNoPosition) {}

    template <class AnyState>
    __device__ __forceinline__ void finish(const AnyState &mine) {
        const AnyState merged = row.team.merge(mine, identity());
        softmax = RowSoftmax(merged, identity());
        if (apart != kNoPosition) softmax.add_target(softmax.max, merged.shift);
    }

    // Cold.
    __device__ __forceinline__ void reduce_exactly() {
        row.team.separate();
        State<ExactShift> again(identity(), softmax.max);
        row.accumulate_slowly(again, apart);
        finish(again);
    }

    // `asks_apart`: whether it matters that one class may have most of the probability.
    __device__ __forceinline__ void reduce(bool asks_apart) {
        State<FusedShift> mine(identity(), -INFINITY);
        row.template accumulate<Pass::kFirst>(mine);
        finish(mine);
        exact = needs_exact_shift(softmax, FusedShift(identity(), softmax.max), 0.0f);
        if (exact) reduce_exactly();
        if (asks_apart && is_confident(softmax)) {
            row.team.separate();
            apart = row.team.lowest(row.lowest_of(mine, softmax.max));
            if (exact) {
                reduce_exactly();
            } else {
                row.team.separate();
                State<FusedShift> again(identity(), softmax.max);
                row.template accumulate<Pass::kLater>(again, apart);
                finish(again);
            }
        }
    }

    __device__ __forceinline__ XentSavedRow saved() const {
        const uint32_t kept = apart == kNoPosition ? XENT_NOTHING_APART : apart;
        return {softmax.max, softmax.others, softmax.mass, 2 * kept + (exact ? 1 : 0)};
    }

    __device__ __forceinline__ void write(T *output, uint32_t what) {
        if (what == XENT_LOG_PROBABILITIES) {
            // They need no exponential: any shift serves.
            row.write(output, LogProbabilities(softmax), FusedShift(identity(), 0.0f));
            if (apart != kNoPosition) {
                row.mend(output, apart, -nll_term(softmax, softmax.max, 1.0f));
            }
        } else if (exact) {
            row.write_slowly(output, Probabilities(softmax), ExactShift(identity(), softmax.max));
        } else {
            row.write(output, Probabilities(softmax), FusedShift(identity(), softmax.max));
        }
    }
};

// What is said of a row beside its output.
struct LogSoftmaxSummary {
    XentSavedRow saved;
    float lse;
};

template <class Strategy>
__device__ __forceinline__ void log_softmax(const XentLogSoftmax &p) {
    using T = typename Strategy::Element;
    extern __shared__ uint4 shared[];
    __shared__ typename Strategy::Storage storage;

    Strategy strategy(storage, shared, p.geometry, p.classes);
    const auto body = [&](uint64_t index, const auto &tell) {
        const T *logits = static_cast<const T *>(p.logits) + index * p.logits_row_stride;
        T *const output = static_cast<T *>(p.output) + index * p.output_row_stride;
        auto row = strategy.row(logits, p.logits_row_stride, RowLayout<T>(logits, p.classes),
                                NoTerms(), identity(), kNoPosition);
        LogSoftmaxRow<typename Strategy::Row> log_softmax_row(row);
        log_softmax_row.reduce(p.what == XENT_LOG_PROBABILITIES || p.save != nullptr);
        tell(LogSoftmaxSummary{log_softmax_row.saved(), log_sum_exp(log_softmax_row.softmax)});
        log_softmax_row.write(output, p.what);
        strategy.close_output(output, p.output_row_stride);
    };
    strategy.template for_each_row<LogSoftmaxSummary>(
        p.rows, body, [&](const LogSoftmaxSummary &summary, const Speakers &speakers) {
            if (!speakers.speaks) return;
            if (p.row_lse != nullptr) p.row_lse[speakers.row] = summary.lse;
            if (p.save != nullptr) p.save[speakers.row] = summary.saved;
        });
}

// One row of the backward pass by its team. `Row` is of the upstream gradient.
template <class Row>
struct LogSoftmaxBackwardRow {
    using T = typename Row::Element;
    static constexpr uint32_t kSize = kPackSize<T>;

    Row &row;
    const T *values;
    T *gradient;
    uint32_t apart;  // the class that the forward pass kept apart, or kNoPosition

    // Of this thread's elements but the one apart.
    __device__ __forceinline__ float sum_of_upstream() const {
        float sum = 0.0f;
        row.packs.template forward<Pass::kFirst>([&](uint32_t index, uint4 bits) {
            float g[kSize];
            unpack<T>(bits, g);
            const uint32_t left_out = apart - row.layout.start_of(index);
            if (left_out < kSize) {
#pragma unroll
                for (uint32_t i = 0; i < kSize; ++i) g[i] = i == left_out ? 0.0f : g[i];
            }
            sum = add_rn(sum, sum_of(g));
        });
        row.for_each_single([&](uint32_t i) {
            if (row.single_position[i] != apart) sum = add_rn(sum, row.single_value(i));
        });
        return sum;
    }

    template <class Shift>
    __device__ __forceinline__ void write(float probability_weight, const Shift &shift) const {
        const bool values_aligned = same_alignment<T>(values, row.input);
        const bool gradient_aligned = same_alignment<T>(gradient, row.input);
        const auto gradient_of = [&](float x, float g) {
            return fma_rn(exp2_approx(shift.exponent(x)), probability_weight, g);
        };
        row.packs.backward(
            [&](uint32_t index) {
                return load_bits(values + row.layout.start_of(index), values_aligned);
            },
            [&](uint32_t index, uint4 bits, uint4 value_bits) {
                float x[kSize], g[kSize];
                unpack<T>(value_bits, x);
                unpack<T>(bits, g);
#pragma unroll
                for (uint32_t i = 0; i < kSize; ++i) x[i] = gradient_of(x[i], g[i]);
                store_run(gradient + row.layout.start_of(index), gradient_aligned, x);
            });
        row.for_each_single([&](uint32_t i) {
            const float x = load_one(values + row.single_position[i]);
            store_one(gradient + row.single_position[i], gradient_of(x, row.single_value(i)));
        });
    }

    template <class Shift>
    __device__ __forceinline__ void finish(const XentSavedRow &saved, const Shift &shift,
                                           float g_apart, float g_others) const {
        const float e_apart =
            apart == kNoPosition ? 0.0f : exp2_approx(shift.exponent(saved.max));
        const float sum = add_rn(saved.others, e_apart);
        write(div_rn(-add_rn(g_others, g_apart), sum), shift);
        if (apart != kNoPosition) {
            row.mend(gradient, apart,
                     div_rn(saved.others, sum) * g_apart - div_rn(e_apart, sum) * g_others);
        }
    }
};

template <class Strategy>
__device__ __forceinline__ void log_softmax_backward(const XentLogSoftmaxBackward &p) {
    using T = typename Strategy::Element;
    extern __shared__ uint4 shared[];
    __shared__ typename Strategy::Storage storage;

    Strategy strategy(storage, shared, p.geometry, p.classes);
    const auto body = [&](uint64_t index, const auto &tell) {
        const T *upstream = static_cast<const T *>(p.upstream) + index * p.upstream_row_stride;
        // Log-probabilities are logits with a maximum of 0 and a sum of 1.
        const XentSavedRow saved =
            p.saved != nullptr ? p.saved[index]
                               : XentSavedRow{0.0f, 1.0f, 0.0f, 2 * XENT_NOTHING_APART};
        auto row = strategy.row(upstream, p.upstream_row_stride, RowLayout<T>(upstream, p.classes),
                                UpstreamTerms(), identity(), kNoPosition);
        // Compared with the classes, so that nothing that was saved can be an address elsewhere.
        const uint32_t kept = saved.apart_and_exact / 2;
        LogSoftmaxBackwardRow<typename Strategy::Row> backward{
            row, static_cast<const T *>(p.values) + index * p.values_row_stride,
            static_cast<T *>(p.gradient) + index * p.gradient_row_stride,
            kept < p.classes ? kept : kNoPosition};
        const float g_apart =
            backward.apart == kNoPosition ? 0.0f : load_one(upstream + backward.apart);
        const float g_others = row.team.sum(backward.sum_of_upstream());
        tell(Nothing());
        if (saved.apart_and_exact % 2 != 0) {
            backward.finish(saved, ExactShift(identity(), saved.max), g_apart, g_others);
        } else {
            backward.finish(saved, FusedShift(identity(), saved.max), g_apart, g_others);
        }
    };
    strategy.template for_each_row<Nothing>(p.rows, body, [](Nothing, const Speakers &) {});
}

}  // namespace xent
