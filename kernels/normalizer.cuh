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
#include "ordered_sum.cuh"
#include "reduce.cuh"
#include "row_loss.cuh"
#include "targets.cuh"

namespace xent {

__device__ __forceinline__ float target_weight(const XentNormalizer &p, int64_t value) {
    const bool weighted = p.class_weights != nullptr && uint64_t(value) < p.classes;
    return weighted ? p.class_weights[value] : 1.0f;
}

__device__ __forceinline__ float inverse_divisor(const XentNormalizer &p, uint32_t source,
                                                 float given, uint64_t rows, float weight) {
    if (source == XENT_DIVISOR_GIVEN) return given;
    const float divisor = source == XENT_DIVISOR_COUNTED_ROWS ? float(rows) : weight;
    return divisor == 0.0f && p.empty_is_zero != 0 ? 0.0f : div_rn(1.0f, divisor);
}

__device__ __forceinline__ void normalizer(const XentNormalizer &p) {
    const uint32_t lane = threadIdx.x % kWarpSize;
    const uint64_t chunks = (p.rows + XENT_CHUNK_ROWS - 1) / XENT_CHUNK_ROWS;
    const uint64_t warps = uint64_t(gridDim.x) * (blockDim.x / kWarpSize);
    auto *counted_rows = reinterpret_cast<unsigned long long *>(&p.workspace->counted_rows);

    for (uint64_t chunk = uint64_t(blockIdx.x) * (blockDim.x / kWarpSize) + threadIdx.x / kWarpSize;
         chunk < chunks; chunk += warps) {
        const uint64_t end = min(p.rows, (chunk + 1) * XENT_CHUNK_ROWS);
        uint32_t counted = 0;
        float weight = 0.0f;
        for (uint64_t row = chunk * XENT_CHUNK_ROWS + lane; row < end; row += kWarpSize) {
            const int64_t value = target_value(p.targets, row);
            if (!is_ignored(p.targets, value)) {
                ++counted;
                weight = add_rn(weight, target_weight(p, value));
            }
        }
        counted = warp_sum(counted);
        weight = warp_sum(weight);
        if (lane == 0) {
            p.chunk_sums[chunk] = weight;
            atomicAdd(counted_rows, static_cast<unsigned long long>(counted));
        }
        if (is_last_warp(&p.workspace->normalizer_ticket, uint32_t(chunks))) {
            const float all = warp_sum_in_order(p.chunk_sums, uint32_t(chunks));
            if (lane == 0) {
                const uint64_t rows = atomicExch(counted_rows, 0ull);
                const XentTerms inverse = {
                    inverse_divisor(p, p.nll_source, p.given.nll, rows, all),
                    inverse_divisor(p, p.smoothing_source, p.given.smoothing, rows, all),
                    inverse_divisor(p, p.z_loss_source, p.given.z_loss, rows, all)};
                *p.divided = {inverse, times(p.term_weights, inverse)};
            }
        }
    }
}

}  // namespace xent
