// What a mean divides by, where the host cannot know it: the rows that are not ignored, or the sum
// of the class weights of their targets.
//
// Computes: *divided: 1 / D for each term of the loss, and the term's weight over D.
// Shapes: targets [rows], class weights [classes] or none.
// Traffic: the targets once, and a weight for each where there are weights.
// Parallelism: a block takes XENT_NORMALIZER_ROWS rows at a time, all of a thread's at once; the last block to
// finish adds the blocks'. Of fewer rows there is one block, and nobody waits for others.
// Invariants: counts are integers and weights are added in an order that depends on `rows` alone. A
// target that names no class counts as a row of weight 1. Weights whose sum overflows make the mean NaN.
#pragma once

#include <float.h>
#include <stdint.h>

#include "abi.h"
#include "cluster.cuh"
#include "ordered_sum.cuh"
#include "reduce.cuh"
#include "row_loss.cuh"
#include "targets.cuh"

namespace xent {

// What the targets of some rows amount to.
struct TargetCount {
    uint32_t rows;
    float weight;

    // The part of one of `kThreads` threads of rows from `begin` to `end`: every kThreads-th, in order; `weights`
    // of the classes, or null for 1. `kAtOnce` of them are on their way together: one after the other, each would
    // wait for memory twice.
    template <uint32_t kAtOnce, uint32_t kThreads>
    __device__ __forceinline__ void add(const XentTargets &targets, uint64_t begin, uint64_t end,
                                        const float *weights, uint32_t classes) {
        for (uint64_t row = begin + threadIdx.x % kThreads; row < end; row += kAtOnce * kThreads) {
            int64_t values[kAtOnce];
            float each[kAtOnce];
#pragma unroll
            for (uint32_t i = 0; i < kAtOnce; ++i) {
                const uint64_t one = row + i * kThreads;
                values[i] = one < end ? target_value(targets, one) : 0;
            }
#pragma unroll
            for (uint32_t i = 0; i < kAtOnce; ++i) {
                const bool counts = row + i * kThreads < end && !is_ignored(targets, values[i]);
                const bool weighted = weights != nullptr && uint64_t(values[i]) < classes;
                rows += counts;
                each[i] = !counts ? 0.0f : weighted ? weights[values[i]] : 1.0f;
            }
#pragma unroll
            for (uint32_t i = 0; i < kAtOnce; ++i) weight = add_rn(weight, each[i]);
        }
    }
};

__device__ __forceinline__ float inverse_divisor(uint32_t source, float given, uint64_t rows,
                                                 float weight, uint32_t empty_is_zero) {
    if (source == XENT_DIVISOR_GIVEN) return given;
    const float divisor = source == XENT_DIVISOR_COUNTED_ROWS ? float(rows) : weight;
    // A sum of weights that f32 does not hold: 1 / inf would make every loss and gradient 0, and nobody would notice.
    if (divisor > FLT_MAX) return NAN;
    return divisor == 0.0f && empty_is_zero != 0 ? 0.0f : div_rn(1.0f, divisor);
}

__device__ __forceinline__ XentDivided divided_by(const XentDivisors &d, uint64_t rows,
                                                  float weight) {
    const XentTerms inverse = {
        inverse_divisor(d.nll_source, d.given.nll, rows, weight, d.empty_is_zero),
        inverse_divisor(d.smoothing_source, d.given.smoothing, rows, weight, d.empty_is_zero),
        inverse_divisor(d.z_loss_source, d.given.z_loss, rows, weight, d.empty_is_zero)};
    return {inverse, times(d.term_weights, inverse)};
}

// By one warp that goes over all targets, few as they are. All lanes get it.
__device__ __forceinline__ XentDivided divided_by_targets(const XentFused &p) {
    TargetCount count{0, 0.0f};
    count.add<4, kWarpSize>(p.targets, 0, p.sums.rows, p.nll_weights, p.classes);
    return divided_by(p.divisors, warp_sum(count.rows), warp_sum(count.weight));
}

// By one warp, all of whose lanes have what a chunk amounts to.
__device__ __forceinline__ void finish_chunk(const XentNormalizer &p, TargetCount count, uint64_t chunk,
                                             uint32_t chunks) {
    const bool first_lane = threadIdx.x % kWarpSize == 0;
    uint64_t rows = count.rows;
    float weight = count.weight;
    if (chunks != 1) {
        auto *counted_rows = reinterpret_cast<unsigned long long *>(&p.workspace->counted_rows);
        if (first_lane) {
            leave_value(p.chunk_sums + chunk, weight);
            atomicAdd(counted_rows, static_cast<unsigned long long>(rows));
        }
        const Fence fence = Fence::kBeforeTicket;
        uint32_t *const ticket = &p.workspace->normalizer_ticket;
        if (!is_last_warp(fence, ticket, take_ticket(fence, ticket, 1, chunks), 1, chunks)) return;
        weight = warp_take_sum(p.chunk_sums, chunks);
        if (first_lane) rows = atomicExch(counted_rows, 0ull);
    }
    if (first_lane) *p.divided = divided_by(p.divisors, rows, weight);
}

__device__ __forceinline__ void normalizer(const XentNormalizer &p) {
    constexpr uint32_t kWarps = XENT_NORMALIZER_THREADS / kWarpSize;
    constexpr uint32_t kAtOnce = XENT_NORMALIZER_ROWS / XENT_NORMALIZER_THREADS;
    static_assert(kWarps == kWarpSize, "a lane adds what each warp counted");
    __shared__ TargetCount of_warps[kWarps];
    const uint32_t lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    const uint64_t chunks = (p.rows + XENT_NORMALIZER_ROWS - 1) / XENT_NORMALIZER_ROWS;

    // It reads logits first and waits before it reads what is written here.
    let_next_launch_begin();
    for (uint64_t chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
        const uint64_t begin = chunk * XENT_NORMALIZER_ROWS;
        const uint64_t end = min(p.rows, begin + XENT_NORMALIZER_ROWS);
        TargetCount count{0, 0.0f};
        count.add<kAtOnce, XENT_NORMALIZER_THREADS>(p.targets, begin, end, p.class_weights, p.classes);
        count = {warp_sum(count.rows), warp_sum(count.weight)};
        if (lane == 0) of_warps[warp] = count;
        __syncthreads();  // what every warp counted, before the first one reads it
        if (warp == 0) {
            count = of_warps[lane];
            count = {warp_sum(count.rows), warp_sum(count.weight)};
            finish_chunk(p, count, chunk, uint32_t(chunks));
        }
        __syncthreads();  // the first warp has read it, before the next round's is written
    }
}

}  // namespace xent
