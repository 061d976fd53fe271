// What multiplies each -log p_k of a row in its smoothing term, in the kernels' kinds: nothing is kept,
// all are 1, class weights, or target probabilities.
//
// A kind says at compile time what the inner loops have to know:
//     kWeights     what SoftmaxState keeps
//     kHasTarget   whether a class is kept out of the sums
//     kKnowsCap    whether logits can be capped
//     kStreamed    whether weights come from memory as the logits do, and are cached with them
//     kOnePass     whether outputs need nothing of the row but their own elements, so that it is kept nowhere
//     kLanePacks   packs of a row that a lane keeps in registers under warp, at most
//     kPacksInFlight  packs that a thread has in flight at once, to cover the latency of memory; fewer
//                  where the code for a pack is long
#pragma once

#include <stdint.h>

#include "abi.h"
#include "arithmetic.cuh"
#include "dtype.cuh"
#include "softmax_state.cuh"
#include "vector.cuh"

namespace xent {

// No smoothing term and no target: log-softmax.
struct NoTerms {
    static constexpr Weights kWeights = Weights::kNone;
    static constexpr bool kHasTarget = false;
    static constexpr bool kKnowsCap = false;
    static constexpr bool kStreamed = false;
    static constexpr bool kOnePass = false;
    static constexpr uint32_t kLanePacks = XENT_WARP_PACKS;
    static constexpr uint32_t kPacksInFlight = 4;

    __device__ __forceinline__ bool given() const { return false; }
    __device__ __forceinline__ float at(uint32_t) const { return 1.0f; }
    template <int N>
    __device__ __forceinline__ void load(uint32_t, float (&)[N]) const {}
};

// The same of an upstream gradient, beside which the row that it belongs to is on its way.
struct UpstreamTerms : NoTerms {
    static constexpr uint32_t kLanePacks = XENT_WARP_PACKS_OF_TWO;
    static constexpr uint32_t kPacksInFlight = 2;
};

// Not even a softmax: binary losses.
struct ElementTerms : NoTerms {
    static constexpr bool kOnePass = true;
};

// A class index, and no class weights in the smoothing term.
struct PlainTerms : NoTerms {
    static constexpr Weights kWeights = Weights::kOnes;
    static constexpr bool kHasTarget = true;

    template <typename T>
    __device__ __forceinline__ PlainTerms(const XentFused &, uint64_t, const RowLayout<T> &) {}
};

// A class index; v_k are class weights, or 1.
struct ClassTerms {
    static constexpr Weights kWeights = Weights::kGiven;
    static constexpr bool kHasTarget = true;
    static constexpr bool kKnowsCap = true;
    static constexpr bool kStreamed = false;
    static constexpr bool kOnePass = false;
    static constexpr uint32_t kLanePacks = XENT_WARP_PACKS;
    static constexpr uint32_t kPacksInFlight = 2;

    const float *weights;  // v, or null for 1
    bool aligned;

    template <typename T>
    __device__ __forceinline__ ClassTerms(const XentFused &p, uint64_t, const RowLayout<T> &layout)
        : weights(p.smoothing_weights), aligned(aligned_with_packs(weights, layout)) {}

    __device__ __forceinline__ bool given() const { return weights != nullptr; }
    __device__ __forceinline__ float at(uint32_t position) const {
        return given() ? weights[position] : 1.0f;
    }
    template <int N>
    __device__ __forceinline__ void load(uint32_t position, float (&v)[N]) const {
        load_run(weights + position, aligned, v);
    }
};

// Target probabilities q: v_k = a u_k q_k + b v_k. The branches are the same for the whole grid.
struct ProbabilityTerms {
    static constexpr Weights kWeights = Weights::kGiven;
    static constexpr bool kHasTarget = false;
    static constexpr bool kKnowsCap = true;
    static constexpr bool kStreamed = true;
    static constexpr bool kOnePass = false;
    static constexpr uint32_t kLanePacks = XENT_WARP_PACKS_OF_PROBABILITIES;
    static constexpr uint32_t kPacksInFlight = 2;

    const void *probabilities;  // of this row
    const float *nll_weights;
    const float *smoothing_weights;
    float nll;
    float smoothing;
    uint32_t kind;
    bool aligned;          // the probabilities
    bool weights_aligned;  // both kinds

    template <typename T>
    __device__ __forceinline__ ProbabilityTerms(const XentFused &p, uint64_t row,
                                                const RowLayout<T> &layout)
        : nll_weights(p.nll_weights),
          smoothing_weights(p.smoothing_weights),
          nll(p.term_weights.nll),
          smoothing(p.term_weights.smoothing),
          kind(p.targets.kind),
          weights_aligned(aligned_with_packs(p.nll_weights, layout) &&
                          aligned_with_packs(p.smoothing_weights, layout)) {
        if (kind == XENT_TARGET_F32) {
            find_row<float>(p.targets, row, layout);
        } else if (kind == XENT_TARGET_F16) {
            find_row<Half>(p.targets, row, layout);
        } else {
            find_row<Bfloat16>(p.targets, row, layout);
        }
    }

    __device__ __forceinline__ bool given() const { return true; }

    __device__ __forceinline__ float at(uint32_t position) const {
        const float q = kind == XENT_TARGET_F32   ? load_one(as<float>() + position)
                        : kind == XENT_TARGET_F16 ? load_one(as<Half>() + position)
                                                  : load_one(as<Bfloat16>() + position);
        const float a = nll_weights == nullptr ? nll : mul_rn(nll, nll_weights[position]);
        const float b =
            smoothing_weights == nullptr ? smoothing : mul_rn(smoothing, smoothing_weights[position]);
        return fma_rn(a, q, b);
    }

    template <int N>
    __device__ __forceinline__ void load(uint32_t position, float (&v)[N]) const {
        if (kind == XENT_TARGET_F32) {
            load_run(as<float>() + position, aligned, v);
        } else if (kind == XENT_TARGET_F16) {
            load_run(as<Half>() + position, aligned, v);
        } else {
            load_run(as<Bfloat16>() + position, aligned, v);
        }
        if (nll_weights == nullptr && smoothing_weights == nullptr) {
#pragma unroll
            for (int i = 0; i < N; ++i) v[i] = fma_rn(nll, v[i], smoothing);
            return;
        }
        float a[N], b[N];
        times(nll, nll_weights, position, a);
        times(smoothing, smoothing_weights, position, b);
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = fma_rn(a[i], v[i], b[i]);
    }

  private:
    template <typename Q>
    __device__ __forceinline__ const Q *as() const {
        return static_cast<const Q *>(probabilities);
    }

    template <typename Q, typename T>
    __device__ __forceinline__ void find_row(const XentTargets &targets, uint64_t row,
                                             const RowLayout<T> &layout) {
        const Q *start = static_cast<const Q *>(targets.values) + row * targets.row_stride;
        probabilities = start;
        aligned = aligned_with_packs(start, layout);
    }

    // As `at` forms it for one element.
    template <int N>
    __device__ __forceinline__ void times(float factor, const float *weights, uint32_t position,
                                          float (&product)[N]) const {
        if (weights == nullptr) {
#pragma unroll
            for (int i = 0; i < N; ++i) product[i] = factor;
        } else {
            load_run(weights + position, weights_aligned, product);
#pragma unroll
            for (int i = 0; i < N; ++i) product[i] = mul_rn(factor, product[i]);
        }
    }
};

}  // namespace xent
