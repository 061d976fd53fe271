// Packs of one thread that are worked on together: loaded before the first of them is used, so that latencies
// overlap, and compared with the maximum once.
#pragma once

#include <stdint.h>

#include "abi.h"

namespace xent {

template <uint32_t kCount>
struct PackBatch {
    static_assert(kCount % XENT_PACKS_AT_ONCE == 0, "whole groups");

    uint4 bits[kCount];
    uint32_t first;  // its index
    uint32_t step;   // from one to the next
    uint32_t there;  // bit i: whether pack i is to be visited; else it has no bits

    __device__ __forceinline__ uint32_t index(uint32_t i) const { return first + i * step; }
    __device__ __forceinline__ bool has(uint32_t i) const { return (there >> i & 1) != 0; }
};

// What code for a batch may count on: that all of its packs are there, or nothing.
struct AllThere {
    static constexpr bool kAll = true;
};
struct SomeThere {
    static constexpr bool kAll = false;
};

// take(batch, AllThere or SomeThere) for the packs from `from` to `to` that are this thread's of its block, but
// `skipped`, first ones first; load(index) brings one. `kTwice`: AllThere has code of its own.
template <uint32_t kCount, bool kTwice, class Load, class Take>
__device__ __forceinline__ void in_batches(uint32_t from, uint32_t to, uint32_t skipped,
                                           const Load &load, const Take &take) {
    PackBatch<kCount> batch;
    batch.step = blockDim.x;
#pragma unroll 1
    for (batch.first = from + threadIdx.x; batch.first < to; batch.first += kCount * batch.step) {
        bool all = kTwice && batch.index(kCount - 1) < to;
#pragma unroll
        for (uint32_t i = 0; i < kCount; ++i) all &= batch.index(i) != skipped;
        if (all) {
#pragma unroll
            for (uint32_t i = 0; i < kCount; ++i) batch.bits[i] = load(batch.index(i));
            take(batch, AllThere());
        } else {
            batch.there = 0;
#pragma unroll
            for (uint32_t i = 0; i < kCount; ++i) {
                // Else registers of both ways are kept apart, and spill.
                batch.bits[i] = make_uint4(0, 0, 0, 0);
                if (batch.index(i) < to && batch.index(i) != skipped) {
                    batch.bits[i] = load(batch.index(i));
                    batch.there |= 1 << i;
                }
            }
            take(batch, SomeThere());
        }
    }
}

// do_with(index, bits) for the packs of a batch.
template <uint32_t kCount, class Which, class Do>
__device__ __forceinline__ void for_each_pack(const PackBatch<kCount> &batch, Which, const Do &do_with) {
#pragma unroll
    for (uint32_t i = 0; i < kCount; ++i) {
        if (Which::kAll || batch.has(i)) do_with(batch.index(i), batch.bits[i]);
    }
}

}  // namespace xent
