// The loss and the gradient of rows, together or apart, under any strategy but tiny (fused_tiny.cuh).
//
// Computes: for each row of XentFused, its loss, its lse and its gradient (row_loss.cuh).
// Shapes: logits, gradient and probabilities [rows, classes], any row strides and base alignment.
// Traffic: the strategy's; the forward pass alone writes nothing, the backward pass reads each logit
//     once, since the softmax was saved. An ignored row is written and never read.
// Parallelism: the strategy's. A row's team finds its softmax; whoever the strategy lets speak for it
//     says the rest.
// Invariants: a pass alone gives the same bits as both together by the same strategy. In place, all threads have read the
//     target's logit before any store.
#pragma once

#include <stdint.h>

#include <type_traits>

#include "abi.h"
#include "async_copy.cuh"
#include "cluster.cuh"
#include "normalizer.cuh"
#include "ordered_sum.cuh"
#include "reduce.cuh"
#include "row.cuh"
#include "row_loss.cuh"
#include "softmax_state.cuh"
#include "speakers.cuh"
#include "targets.cuh"
#include "terms.cuh"
#include "vector.cuh"

namespace xent {

// What is to be said of a row beside its gradient; the same in all threads of its team.
struct RowSummary {
    TargetKind kind;
    XentSavedRow saved;   // the softmax, in the words of abi.h
    float shifted_sum;
    float target_value;
    float apart_weight;   // what multiplies -log p of the class that is kept apart
    uint32_t target;      // where there is one
    uint32_t argmax;      // where asked for
};

template <typename T>
__device__ __forceinline__ const T *logits_row(const XentFused &p, uint64_t row) {
    return static_cast<const T *>(p.logits) + row * p.logits_row_stride;
}

template <typename T>
__device__ __forceinline__ T *gradient_row(const XentFused &p, uint64_t row) {
    return static_cast<T *>(p.gradient) + row * p.gradient_row_stride;
}

// What the terms of all rows are divided by; `found` is what this launch found, if it had to.
__device__ __forceinline__ XentDivided divided(const XentFused &p, const XentDivided &found) {
    return p.divided_source == XENT_DIVIDED_HOST     ? p.divided
           : p.divided_source == XENT_DIVIDED_DEVICE ? *p.device_divided
                                                     : found;
}

// What multiplies the terms of a row, of which `terms` are those of all rows.
template <class Terms>
__device__ __forceinline__ RowWeights row_weights(const XentFused &p, uint32_t target,
                                                  float apart_weight, const XentTerms &terms,
                                                  float cross_entropy) {
    if constexpr (!Terms::kHasTarget) {
        return RowWeights(cross_entropy, apart_weight, terms.z_loss);
    } else {
        const float u = p.nll_weights == nullptr ? 1.0f : p.nll_weights[target];
        // Plain kernels have no weights there.
        const bool ones = Terms::kWeights == Weights::kOnes || p.smoothing_weights == nullptr;
        return RowWeights(terms, u, ones ? 1.0f : p.smoothing_weights[target]);
    }
}

__device__ __forceinline__ bool is_exact(const XentSavedRow &saved) {
    return saved.apart_and_exact % 2 != 0;
}

template <class Shift>
__device__ __forceinline__ RowSoftmax restored(const XentSavedRow &saved, const Shift &shift,
                                               const XentTransform &by, float target_value) {
    RowSoftmax softmax(saved, shift, by);
    // Of a row without a target that keeps no class apart, it is -inf and adds nothing.
    softmax.add_target(target_value, shift);
    return softmax;
}

// As the team formed it, to the bit.
__device__ __forceinline__ RowSoftmax restored(const XentSavedRow &saved, const XentTransform &by,
                                               float target_value) {
    return is_exact(saved) ? restored(saved, ExactShift(by, saved.max), by, target_value)
                           : restored(saved, FusedShift(by, saved.max), by, target_value);
}

// Says what is known of a row beside its gradient. By one lane; `softmax_of_row` is called if it has a class.
template <class Terms, class SoftmaxOfRow>
__device__ __forceinline__ void report_row(const XentFused &p, const XentDivided &by,
                                           const RowSummary &row, const SoftmaxOfRow &softmax_of_row,
                                           uint64_t index) {
    const XentTerms &inverse = by.inverse_divisors;
    const bool bad = row.kind == TargetKind::kBad;
    float loss = bad ? NAN : 0.0f, share = loss, lse = loss;
    if (row.kind == TargetKind::kClass) {
        const RowSoftmax softmax = softmax_of_row();
        if (p.row_lse != nullptr) lse = log_sum_exp(softmax);
        loss = row_loss(softmax, row.target_value,
                        row_weights<Terms>(p, row.target, row.apart_weight, p.term_weights, 1.0f));
        // One divisor for all terms is the rule: then the row's logarithms are not formed again,
        // unless the loss overflowed, which its share need not.
        const bool alike = inverse.nll == inverse.smoothing && inverse.nll == inverse.z_loss &&
                           fabsf(loss) <= FLT_MAX;
        share = alike ? weighted(inverse.nll, loss)
                      : row_loss(softmax, row.target_value,
                                 row_weights<Terms>(p, row.target, row.apart_weight,
                                                    by.term_weights, inverse.nll));
        if (p.sums.correct != nullptr && Terms::kHasTarget && row.argmax == row.target) {
            count_correct(p.sums);
        }
        if (p.save != nullptr) p.save[index] = row.saved;
    } else if (bad) {
        record_bad_target(p.sums.workspace->status, index, target_value(p.targets, index), p.classes);
    }
    if (p.row_losses != nullptr) p.row_losses[index] = loss;
    if (p.row_lse != nullptr) p.row_lse[index] = lse;
    if (p.row_argmax != nullptr) {
        p.row_argmax[index] = row.kind == TargetKind::kClass ? int64_t(row.argmax) : -1;
    }
    if (p.sums.loss != nullptr) {
        leave_value(p.sums.row_shares + index, share + share_of_nothing(inverse.nll));
    }
    if (index == 0 && p.save_divided != nullptr) *p.save_divided = by;
}

// Rows of one chunk that one warp has reported, and counted.
struct Counted {
    uint64_t first;
    uint32_t rows;  // 0: none
    uint32_t earlier;
};

// Called by the warp that reported them.
__device__ __forceinline__ Counted counted(const XentFused &p, uint64_t first, uint32_t rows) {
    if (p.sums.loss == nullptr && p.sums.correct == nullptr) return {};
    return {first, rows, count_rows(p.sums, first, rows)};
}

// Called by that warp, when it has nothing else to do.
__device__ __forceinline__ void settle(const XentFused &p, const Counted &counted) {
    if (counted.rows != 0) sum_if_last(p.sums, counted.first, counted.rows, counted.earlier);
}

// Both, of rows whose summaries the speaking lanes of a warp have. Called by that warp.
template <class Terms>
__device__ __forceinline__ Counted report_rows(const XentFused &p, const XentDivided &found,
                                               const RowSummary &row, const Speakers &speakers) {
    // The forward pass has said it.
    if (p.saved != nullptr) return {};
    if (speakers.speaks) {
        const auto softmax = [&] {
            RowSoftmax of_row = restored(row.saved, p.transform, row.target_value);
            of_row.shifted_sum = row.shifted_sum;
            return of_row;
        };
        report_row<Terms>(p, divided(p, found), row, softmax, speakers.row);
    }
    return counted(p, speakers.first, speakers.rows);
}

// One row by its team, all of whose threads call it.
template <class Row>
struct FusedRow {
    using T = typename Row::Element;
    using Terms = typename Row::Terms;
    template <class Shift>
    using State = typename Row::template State<Shift>;

    const XentFused &p;
    Row &row;
    RowSoftmax softmax;
    float target_value;  // -inf without a target
    bool exact;          // whether exponentials are formed with the exact shift
    uint32_t argmax;     // where asked for
    uint32_t apart;      // the class that a row without a target keeps apart, or kNoPosition
    float apart_weight;  // what multiplies its -log p

    __device__ __forceinline__ FusedRow(const XentFused &argument, Row &row_of_team)
        : p(argument),
          row(row_of_team),
          target_value(-INFINITY),
          exact(false),
          argmax(kNoPosition),
          apart(kNoPosition),
          apart_weight(0.0f) {}

    template <class Shift, Weights kWeights>
    __device__ __forceinline__ RowSoftmax softmax_of(
        const SoftmaxState<Shift, kWeights> &merged) const {
        RowSoftmax found(merged, p.transform);
        if (Terms::kHasTarget || apart != kNoPosition) found.add_target(target_value, merged.shift);
        return found;
    }

    template <class AnyState>
    __device__ __forceinline__ AnyState merge(const AnyState &mine) const {
        AnyState merged = row.team.merge(mine, p.transform);
        if (Terms::kWeights == Weights::kOnes) merged.mass = float(p.classes - 1);
        return merged;
    }

    // Whether another block finishes the row by itself, while this one keeps away from it.
    __device__ __forceinline__ bool is_for_others() const { return exact && row.leaves_exact(); }

    // From the logits.
    __device__ __forceinline__ void reduce() {
        State<FusedShift> mine(p.transform, -INFINITY);
        row.template accumulate<Pass::kFirst>(mine);
        auto merged = merge(mine);
        if (Terms::kHasTarget) {
            target_value = row.target_value();
            merged.raise(target_value, kNoPlace);
        }
        softmax = softmax_of(merged);
        const float smoothing = Terms::kHasTarget ? p.term_weights.smoothing : 1.0f;
        exact = needs_exact_shift(softmax, merged.shift, smoothing);
        if (is_for_others()) return;
        if (p.row_argmax != nullptr || p.sums.correct != nullptr) find_argmax(mine);
        if (!Terms::kHasTarget && !exact && is_confident(softmax)) {
            keep_apart(mine);
            row.team.separate();
            State<FusedShift> again(p.transform, softmax.max);
            row.template accumulate<Pass::kLater>(again, apart);
            softmax = softmax_of(merge(again));
        }
        if (exact) {
            softmax = reduce_exactly();
            if (!Terms::kHasTarget && is_confident(softmax)) {
                keep_apart(mine);
                softmax = reduce_exactly();
            }
        }
    }

    // Without the class that is kept apart, if any. Cold.
    __device__ __forceinline__ RowSoftmax reduce_exactly() const {
        row.team.separate();
        State<ExactShift> again(p.transform, softmax.max);
        row.accumulate_slowly(again, apart);
        return softmax_of(merge(again));
    }

    // Treats the class of the largest logit as a target is treated.
    template <class AnyState>
    __device__ __forceinline__ void keep_apart(const AnyState &mine) {
        row.team.separate();
        apart = row.team.lowest(row.lowest_of(mine, softmax.max));
        apart_weight = row.terms.at(apart);
        target_value = softmax.max;
    }

    template <class AnyState>
    __device__ __forceinline__ void find_argmax(const AnyState &mine) {
        uint32_t lowest = row.lowest_of(mine, softmax.max);
        if (Terms::kHasTarget && target_value == softmax.max) {
            lowest = min(lowest, row.target_position);
        }
        argmax = row.team.lowest(lowest);
        // -inf raises no maximum: in a row of nothing else, the first is as large as any.
        if (softmax.max == -INFINITY) argmax = 0;
        // NaN is the largest, as in PyTorch; no maximum shows it.
        if (softmax.sum != softmax.sum) {
            row.team.separate();
            const uint32_t nan = row.team.lowest(row.lowest_nan());
            if (nan != kNoPosition) argmax = nan;
        }
    }

    // From what the forward pass saved.
    __device__ __forceinline__ void restore(const XentSavedRow &saved) {
        exact = is_exact(saved);
        if constexpr (Terms::kHasTarget) {
            target_value = row.load_target();
        } else if (saved.apart_and_exact / 2 < p.classes) {
            // Compared with the classes, so that nothing that was saved can be an address elsewhere.
            apart = saved.apart_and_exact / 2;
            apart_weight = row.terms.at(apart);
            target_value = saved.max;
        }
        // All threads have read the target's logit; in place, its owner overwrites it below.
        row.team.meet();
        softmax = restored(saved, p.transform, target_value);
    }

    __device__ __forceinline__ RowSummary summary() const {
        const uint32_t kept = apart == kNoPosition ? XENT_NOTHING_APART : apart;
        return {TargetKind::kClass,
                {softmax.max, softmax.others, softmax.mass, 2 * kept + (exact ? 1 : 0)},
                softmax.shifted_sum,
                target_value,
                apart_weight,
                row.target_position,
                argmax};
    }

    __device__ __forceinline__ void write_gradient(T *gradient, uint64_t index,
                                                   const XentDivided &by) {
        const RowWeights weights = row_weights<Terms>(p, row.target_position, apart_weight,
                                                      by.term_weights, by.inverse_divisors.nll);
        RowGradient coefficients(softmax, weights);
        const float upstream = p.upstream == nullptr ? 1.0f : p.upstream[index * p.upstream_stride];
        coefficients.scale_by(upstream * p.transform.slope);
        if (exact) {
            row.write_slowly(gradient, coefficients, ExactShift(p.transform, softmax.max));
        } else {
            row.write(gradient, coefficients, FusedShift(p.transform, softmax.max));
        }
        if (!Terms::kHasTarget && apart != kNoPosition) {
            const float slope =
                row.transform.capped() ? row.transform.cap_slope(target_value) : 1.0f;
            row.mend(gradient, apart, mul_rn(coefficients.target, slope));
        }
    }
};

template <class Strategy>
__device__ __forceinline__ Strategy make_strategy(const XentFused &p,
                                                  typename Strategy::Storage &storage,
                                                  uint4 *shared) {
    if constexpr (Strategy::kHasTwoLaunches) {
        return Strategy(storage, shared, p.geometry, p.classes, p.partials);
    } else {
        return Strategy(storage, shared, p.geometry, p.classes);
    }
}

// Whether a block brings another's row to the L2 cache: where it was measured, and leaves registers enough.
template <class Strategy>
#if __CUDA_ARCH__ >= 900
constexpr bool kLooksAhead = Strategy::kLooksAhead && sizeof(typename Strategy::Element) == 2 &&
                             std::is_same_v<typename Strategy::TermsOfRow, PlainTerms>;
#else
constexpr bool kLooksAhead = false;
#endif

// Whether a ticket is looked at after the gradient: not by a warp that several rows share, which reports when they are
// all done, nor where registers are short.
template <class Strategy>
constexpr bool kSettlesLater =
    !Strategy::kSharesWarps && std::is_same_v<typename Strategy::TermsOfRow, PlainTerms>;

// A row, if its target says that it is to be read, on its way to the L2 cache. By one thread.
template <typename T>
__device__ __forceinline__ void bring_row_to_l2(const XentFused &p, uint64_t index) {
    if (index >= p.sums.rows) return;
    if (load_target(p.targets, index, p.classes).kind != TargetKind::kClass) return;
    const T *const logits = logits_row<T>(p, index);
    const RowLayout<T> layout(logits, p.classes);
    bring_to_l2(layout.body(logits), layout.packs);
}

template <class Strategy>
__device__ __forceinline__ void fused(const XentFused &p) {
    using T = typename Strategy::Element;
    using Terms = typename Strategy::TermsOfRow;
    extern __shared__ uint4 shared[];
    __shared__ typename Strategy::Storage storage;
    // What this launch finds of its divisors, a slot for each warp that needs it, or one a block.
    __shared__ XentDivided divided_here[Strategy::kDividedSlots];

    Strategy strategy = make_strategy<Strategy>(p, storage, shared);
    XentDivided &found = divided_here[strategy.slot()];
    // The second of two launches may begin, and wait for this one.
    if (Strategy::kHasTwoLaunches && p.phase == XENT_PHASE_PARTIALS) let_next_launch_begin();
    bool is_found = p.divided_source != XENT_DIVIDED_HERE;
    // Called by all threads, at first while a row is on its way.
    const auto find_divided = [&] {
        if (is_found) return;
        is_found = true;
        if (!strategy.finds()) return;
        const XentDivided by = divided_by_targets(p);
        if (threadIdx.x % kWarpSize == 0) found = by;
        // Lane 0 wrote it for its warp; for other warps a merge is the barrier.
        __syncwarp();
    };
    // The lanes of a warp part later on, where several have a row each.
    if (Strategy::kSharesWarps) find_divided();
    Counted reported{};
    const auto body = [&](uint64_t index, const auto &tell) {
        Target target{TargetKind::kClass, 0};
        if constexpr (Terms::kHasTarget) target = load_target(p.targets, index, p.classes);
        const bool reads = target.kind == TargetKind::kClass;
        const T *logits = logits_row<T>(p, index);
        // Of a row that is not read, nothing.
        const RowLayout<T> layout(logits, reads ? p.classes : 0);
        const uint32_t position = Terms::kHasTarget && reads ? uint32_t(target.value) : kNoPosition;
        auto row = strategy.row(logits, p.logits_row_stride, layout, Terms(p, index, layout),
                                p.transform, position);
        if constexpr (kLooksAhead<Strategy>) {
            // While all threads wait for their row.
            const uint32_t ahead = p.geometry.rows_ahead;
            if (ahead != 0 && threadIdx.x == 0) bring_row_to_l2<T>(p, index + ahead);
        }
        if constexpr (Strategy::kHasTwoLaunches) {
            // Which divides nothing yet.
            if (p.phase == XENT_PHASE_PARTIALS) {
                if (reads) row.leave_partial(p, index);
                return;
            }
        }
        find_divided();
        FusedRow<typename Strategy::Row> fused_row(p, row);
        RowSummary summary{};
        summary.kind = target.kind;
        if (reads) {
            if (p.saved == nullptr) {
                fused_row.reduce();
            } else {
                fused_row.restore(p.saved[index]);
            }
            if (fused_row.is_for_others()) return;
            summary = fused_row.summary();
        }
        wait_for_launch_before();
        reported = {};
        tell(summary);
        if (p.gradient != nullptr) {
            T *const gradient = gradient_row<T>(p, index);
            if (reads) {
                fused_row.write_gradient(gradient, index, divided(p, found));
            } else {
                strategy.write_zeros(gradient, p.classes);
            }
        }
        // The gradient has been written while the ticket was on its way.
        if (kSettlesLater<Strategy>) settle(p, reported);
    };
    strategy.template for_each_row<RowSummary>(
        p.sums.rows, body, [&](const RowSummary &summary, const Speakers &speakers) {
            const Counted rows = report_rows<Terms>(p, found, summary, speakers);
            if constexpr (kSettlesLater<Strategy>) {
                reported = rows;
            } else {
                settle(p, rows);
            }
        });
}

}  // namespace xent
