// What a mean divides by, where the host cannot know it: the rows that are not ignored, or the sum
// of the class weights of their targets.
//
// Computes: *divided: 1 / D for each term of the loss, and the term's weight over D.
// Traffic: the targets once, and a weight for each where there are weights.
// Parallelism: a warp takes a chunk of XENT_CHUNK_ROWS rows; the last warp to finish adds the chunks.
// Invariants: counts are integers and weights are added in an order that depends on `rows` alone. A
// target that names no class counts as a row of weight 1.
#pragma once

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

    // A warp's lane's part of rows from `begin` to `end`: every 32nd, in order; `weights` of the classes, or
    // null for 1. `kAtOnce` of them are on their way together: one after the other, each would wait for
    // memory twice.
    template <uint32_t kAtOnce>
    __device__ __forceinline__ void add(const XentTargets &targets, uint64_t begin, uint64_t end,
                                        const float *weights, uint32_t classes) {
        for (uint64_t row = begin + threadIdx.x % kWarpSize; row < end; row += kAtOnce * kWarpSize) {
            int64_t values[kAtOnce];
            float each[kAtOnce];
#pragma unroll
            for (uint32_t i = 0; i < kAtOnce; ++i) {
                const uint64_t one = row + i * kWarpSize;
                values[i] = one < end ? target_value(targets, one) : 0;
            }
#pragma unroll
            for (uint32_t i = 0; i < kAtOnce; ++i) {
                const bool counts = row + i * kWarpSize < end && !is_ignored(targets, values[i]);
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

// By one warp that goes over all targets, few as they are: the same bits as the kernel's. All lanes get it.
__device__ __forceinline__ XentDivided divided_by_targets(const XentFused &p) {
    TargetCount count{0, 0.0f};
    count.add<4>(p.targets, 0, p.sums.rows, p.nll_weights, p.classes);
    return divided_by(p.divisors, warp_sum(count.rows), warp_sum(count.weight));
}

__device__ __forceinline__ void normalizer(const XentNormalizer &p) {
    const bool first_lane = threadIdx.x % kWarpSize == 0;
    const uint64_t chunks = (p.rows + XENT_CHUNK_ROWS - 1) / XENT_CHUNK_ROWS;
    const uint64_t warps = uint64_t(gridDim.x) * (blockDim.x / kWarpSize);
    auto *counted_rows = reinterpret_cast<unsigned long long *>(&p.workspace->counted_rows);

    // It reads logits first and waits before it reads what is written here.
    let_next_launch_begin();
    for (uint64_t chunk = uint64_t(blockIdx.x) * (blockDim.x / kWarpSize) + threadIdx.x / kWarpSize;
         chunk < chunks; chunk += warps) {
        const uint64_t end = min(p.rows, (chunk + 1) * XENT_CHUNK_ROWS);
        TargetCount count{0, 0.0f};
        count.add<8>(p.targets, chunk * XENT_CHUNK_ROWS, end, p.class_weights, p.classes);
        const uint32_t counted = warp_sum(count.rows);
        const float weight = warp_sum(count.weight);
        if (first_lane) {
            p.chunk_sums[chunk] = weight;
            atomicAdd(counted_rows, static_cast<unsigned long long>(counted));
        }
        if (is_last_warp(&p.workspace->normalizer_ticket, 1, uint32_t(chunks))) {
            const float all = warp_sum_in_order(p.chunk_sums, uint32_t(chunks));
            if (first_lane) {
                *p.divided = divided_by(p.divisors, atomicExch(counted_rows, 0ull), all);
            }
        }
    }
}

}  // namespace xent
