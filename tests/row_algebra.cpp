// The row algebra of the kernels, compiled for the CPU: what one block does with one row, without
// the block. tests/row_algebra.rs compares it with the oracle.
#include <cstring>
#include <vector>

#include "row_loss.cuh"
#include "softmax_state.cuh"

namespace {

constexpr int kPack = 8;

using Transform = xent::LogitTransform<true>;

// One row of values (capped already) and what belongs to it.
struct Row {
    std::vector<float> values;
    const float *weights;  // v, or null for 1
    uint32_t target;
    uint32_t threads;
    XentTransform by;

    float weight(uint32_t k) const { return weights == nullptr ? 1.0f : weights[k]; }
    float target_value() const { return values[target]; }
};

template <class Shift>
using State = xent::SoftmaxState<Shift, xent::Weights::kGiven>;

template <class Shift>
State<Shift> accumulate(const Row &row, float at_least) {
    const auto classes = uint32_t(row.values.size());
    std::vector<State<Shift>> states(row.threads, State<Shift>(row.by, at_least));
    for (uint32_t start = 0, turn = 0; start < classes; start += kPack, ++turn) {
        auto &state = states[turn % row.threads];
        const bool has_target = start <= row.target && row.target < start + kPack;
        if (start + kPack <= classes && !has_target) {
            float x[kPack], v[kPack];
            for (int i = 0; i < kPack; ++i) {
                x[i] = row.values[start + i];
                v[i] = row.weight(start + i);
            }
            if (row.weights == nullptr) {
                state.add(x, start);
            } else {
                state.add(x, v, start);
            }
        } else {
            for (uint32_t k = start; k < std::min(classes, start + kPack); ++k) {
                const float one[1] = {row.values[k]};
                const float weight[1] = {row.weight(k)};
                if (k != row.target) state.add(one, weight, k);
            }
        }
    }
    // As reduce.cuh merges: raise all to the common maximum, then add.
    float max = -INFINITY;
    for (const auto &state : states) max = fmaxf(max, state.max);
    State<Shift> merged(row.by, at_least);
    merged.raise(max, xent::kNoPlace);
    for (auto state : states) {
        state.raise(max, xent::kNoPlace);
        merged.sum = xent::add_rn(merged.sum, state.sum);
        merged.shifted_sum = xent::add_rn(merged.shifted_sum, state.shifted_sum);
        merged.mass = xent::add_rn(merged.mass, state.mass);
    }
    return merged;
}

}  // namespace

struct RowInput {
    const float *logits;
    const float *nll_weights;        // u, or null
    const float *smoothing_weights;  // v, or null
    float upstream;
    uint32_t classes;
    uint32_t target;
    uint32_t threads;
    XentTerms term_weights;
    XentTerms inverse_divisors;
    XentTransform transform;
};

struct RowOutput {
    float loss;
    float share;
    float lse;
    float *gradient;
};

template <class Shift>
static void finish(const Row &row, const RowInput &in, const xent::RowSoftmax &softmax,
                   const Shift &shift, RowOutput &out) {
    using namespace xent;
    const Transform transform{in.transform};
    const float u = in.nll_weights == nullptr ? 1.0f : in.nll_weights[in.target];
    const float v = row.weight(in.target);
    const XentTerms &inverse = in.inverse_divisors;
    const RowWeights weights(in.term_weights, u, v);
    const RowWeights divided(times(in.term_weights, inverse), u, v);
    out.loss = row_loss(softmax, row.target_value(), weights);
    out.share = row_loss(softmax, row.target_value(), divided) + share_of_nothing(inverse.nll);
    out.lse = log_sum_exp(softmax);
    RowGradient coefficients(softmax, divided);
    coefficients.scale_by(in.upstream * in.transform.slope);
    for (uint32_t k = 0; k < in.classes; ++k) {
        const float value = row.values[k];
        const float before = k == in.target ? coefficients.target
                             : row.weights == nullptr
                                 ? coefficients.at(value, shift)
                                 : coefficients.at(value, shift, row.weights[k]);
        out.gradient[k] = transform.capped() ? mul_rn(before, transform.cap_slope(value)) : before;
    }
}

extern "C" void xent_row(const RowInput &in, RowOutput &out) {
    using namespace xent;
    const Transform transform{in.transform};
    Row row{{in.logits, in.logits + in.classes}, in.smoothing_weights, in.target, in.threads,
            in.transform};
    for (float &x : row.values) x = transform.value(x);
    const float target_value = row.target_value();
    State<FusedShift> state = accumulate<FusedShift>(row, -INFINITY);
    state.raise(target_value, kNoPlace);
    RowSoftmax softmax(state, in.transform);
    softmax.add_target(target_value, state.shift);
    if (needs_exact_shift(softmax, state.shift, in.term_weights.smoothing)) {
        const State<ExactShift> again = accumulate<ExactShift>(row, softmax.max);
        RowSoftmax exactly(again, in.transform);
        exactly.add_target(target_value, again.shift);
        finish(row, in, exactly, again.shift, out);
    } else {
        finish(row, in, softmax, state.shift, out);
    }
}

// The largest relative error of log1p_of_unit over every `stride`th f32 from `from` to 1, in 2^-24.
extern "C" double xent_log1p_error(float from, uint32_t stride) {
    double largest = 0.0;
    const auto bits_of = [](float x) {
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        return bits;
    };
    for (uint32_t bits = bits_of(from); bits <= bits_of(1.0f); bits += stride) {
        float e;
        std::memcpy(&e, &bits, sizeof e);
        const double exact = std::log1p(double(e));
        largest = std::max(largest, std::fabs(xent::log1p_of_unit(e) - exact) / exact);
    }
    return std::ldexp(largest, 24);
}
