// The packs of a row whose elements are visited once, for what follows from each of them alone: from memory to
// what is done with them, and kept nowhere. Under warp and block.
//
// Traffic: 16 bytes a pack, read once.
// Parallelism: pack i of a row belongs to thread i % team.size(), which has the next one on its way while it
//     works on one. What latency that leaves, other warps cover: with no row in registers or shared memory there
//     are many on a multiprocessor. The loop is not unrolled: a pack takes hundreds of instructions.
// Invariants: in place is safe, since a thread has read of what it overwrites all that it will read.
#pragma once

#include <stdint.h>

#include "vector.cuh"

namespace xent {

// All of a row is its team's.
struct PassingPlace {
    Slice slice;
};

class PassingPacks {
  public:
    // No pack is skipped: there is no target to keep apart.
    template <class Team>
    __device__ __forceinline__ PassingPacks(const uint4 *body, uint32_t packs, uint32_t,
                                            const Team &team)
        : body_(body), packs_(packs), first_(team.first_pack()), step_(team.size()) {
        if (first_ < packs_) bits_ = body_[first_];
    }

    __device__ __forceinline__ bool has_edges() const { return true; }
    __device__ __forceinline__ bool takes(uint32_t pack) const { return pack < packs_; }

    // prefetch(index) of this thread's first pack, if it has one there.
    template <class Prefetch>
    __device__ __forceinline__ auto prefetched(const Prefetch &prefetch) const {
        decltype(prefetch(0)) beside;
        if (first_ < packs_) beside = prefetch(first_);
        return beside;
    }

    // do_with(index, bits, prefetch(index)) for this thread's packs, first ones first; `beside` is what
    // `prefetched` gave. Called once.
    template <class Beside, class Prefetch, class Do>
    __device__ __forceinline__ void forward(Beside beside, const Prefetch &prefetch,
                                            const Do &do_with) const {
        uint4 bits_after = bits_;
        Beside beside_after = beside;
        uint32_t after = first_;
#pragma unroll 1
        do {
            const uint32_t index = after;
            const uint4 bits = bits_after;
            beside = beside_after;
            after += step_;
            if (after < packs_) {
                bits_after = body_[after];
                beside_after = prefetch(after);
            }
            if (index < packs_) do_with(index, bits, beside);
        } while (after < packs_);
    }

  private:
    const uint4 *body_;
    uint32_t packs_;
    uint32_t first_;  // wraps before the row's first
    uint32_t step_;
    uint4 bits_;      // of the first, on their way from the beginning
};

}  // namespace xent
