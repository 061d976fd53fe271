// The row algebra of the kernels, compiled for the CPU: what one block does with one row, without
// the block. tests/row_algebra.rs compares it with the oracle.
#include <vector>

#include "row_loss.cuh"
#include "softmax_state.cuh"

namespace {

constexpr int kPack = 8;

template <class Shift>
xent::SoftmaxState<Shift> accumulate(const float *x, uint32_t classes, uint32_t target,
                                     uint32_t threads, float at_least) {
    std::vector<xent::SoftmaxState<Shift>> states(threads, xent::SoftmaxState<Shift>(at_least));
    for (uint32_t start = 0, turn = 0; start < classes; start += kPack, ++turn) {
        auto &state = states[turn % threads];
        const bool whole = start + kPack <= classes && !(start <= target && target < start + kPack);
        if (whole) {
            float pack[kPack];
            std::copy(x + start, x + start + kPack, pack);
            state.add(pack);
        } else {
            for (uint32_t k = start; k < std::min(classes, start + kPack); ++k) {
                const float one[1] = {x[k]};
                if (k != target) state.add(one);
            }
        }
    }
    // As reduce.cuh merges: raise all to the common maximum, then add.
    float max = -INFINITY;
    for (const auto &state : states) max = fmaxf(max, state.max);
    xent::SoftmaxState<Shift> merged(at_least);
    merged.raise(max);
    for (auto state : states) {
        state.raise(max);
        merged.sum = xent::add_rn(merged.sum, state.sum);
        merged.shifted_sum = xent::add_rn(merged.shifted_sum, state.shifted_sum);
        merged.count += state.count;
    }
    return merged;
}

template <class Shift>
void finish(const xent::RowSoftmax<Shift> &row, const float *x, uint32_t classes, uint32_t target,
            const float *weights, float scale, float *loss, float *lse, float *gradient) {
    *loss = xent::row_loss(row, x[target], weights[0], weights[1]);
    *lse = xent::log_sum_exp(row);
    xent::RowGradient coefficients(row, weights[2], weights[1], weights[3]);
    coefficients.scale_by(scale);
    for (uint32_t k = 0; k < classes; ++k) {
        gradient[k] = k == target ? coefficients.target : coefficients.at(x[k], row.shift);
    }
}

}  // namespace

// weights: nll, smoothing, total, others, as in XentFused.
extern "C" void xent_row(const float *x, uint32_t classes, uint32_t target, uint32_t threads,
                         const float *weights, float scale, float *loss, float *lse,
                         float *gradient) {
    using namespace xent;
    const RowSoftmax<FusedShift> fused(
        accumulate<FusedShift>(x, classes, target, threads, -INFINITY), x[target]);
    if (needs_exact_shift(fused, weights[1])) {
        const RowSoftmax<ExactShift> exact(
            accumulate<ExactShift>(x, classes, target, threads, fused.max), x[target]);
        finish(exact, x, classes, target, weights, scale, loss, lse, gradient);
    } else {
        finish(fused, x, classes, target, weights, scale, loss, lse, gradient);
    }
}
