// The packs of a block's slice of a row in shared memory, on their way while the block computes.
//
// Traffic: 16 bytes a pack, read once.
// Parallelism: a slice comes in up to kCacheChunks chunks, so that the first ones are worked on while the
//     last ones arrive. Pack i belongs to thread i % blockDim.x: nobody else reads it, but for those that
//     have met the block at a barrier since.
//     sm_90: one thread orders bulk copies, a chunk each, that are counted by mbarriers.
//     sm_80: each thread orders its own packs.
//     sm_75: nothing goes on by itself: `SliceCache::kFillsItself` is false, and whoever reads a pack for
//     the first time keeps it.
// Invariants: a chunk is a multiple of XENT_PACKS_AT_ONCE packs a thread. Every row passes through every chunk, an
//     empty one too, so that all mbarriers are in the same phase.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "async_copy.cuh"

namespace xent {

constexpr uint32_t kCacheChunks = 4;

// In static shared memory.
struct SliceCacheStorage {
    alignas(8) uint64_t arrived[kCacheChunks];
};

class SliceCache {
  public:
#if __CUDA_ARCH__ >= 800
    static constexpr bool kFillsItself = true;
#else
    static constexpr bool kFillsItself = false;
#endif

    uint4 *packs;

    // For up to `most` packs. Called by all threads of the block; the caller has a barrier before `fill`.
    __device__ __forceinline__ SliceCache(uint4 *shared, SliceCacheStorage &storage, uint32_t most)
        : packs(shared),
          address_(address_of(shared)),
          count_(0),
          storage_(storage),
          parity_(1) {
        const uint32_t at_once = XENT_PACKS_AT_ONCE * blockDim.x, chunks = kCacheChunks * at_once;
        chunk_ = (most + chunks - 1) / chunks * at_once;
#if __CUDA_ARCH__ >= 900
        // Stays in a register: each access would ask for the block's place in its cluster.
        asm volatile("mov.b32 %0, %0;" : "+r"(address_));
        if (threadIdx.x == 0) {
            for (uint32_t i = 0; i < kCacheChunks; ++i) init(storage.arrived + i);
            // The engine that copies in bulk sees initialised mbarriers.
            asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        }
#endif
    }

    // Orders a row's `count` packs. All threads have read what was there before, and met at a barrier since.
    __device__ __forceinline__ void fill(const uint4 *from, uint32_t count) {
        count_ = count;
        parity_ ^= 1;
#if __CUDA_ARCH__ >= 900
        if (threadIdx.x != 0) return;
        // Bulk copies reach shared memory another way than threads do: they overwrite what threads have read after
        // that only behind a proxy fence.
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
        for (uint32_t i = 0; i < kCacheChunks; ++i) order(i, from);
    }

    __device__ __forceinline__ uint32_t end_of(uint32_t chunk) const {
        return min((chunk + 1) * chunk_, count_);
    }

    __device__ __forceinline__ uint4 load(uint32_t i) const {
        uint4 bits;
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
                     : "r"(address_ + i * XENT_PACK_BYTES)
                     : "memory");
        return bits;
    }

    // Until this thread's packs of a chunk are there. Chunks are waited for in order.
    __device__ __forceinline__ void wait_for(uint32_t chunk) const {
#if __CUDA_ARCH__ >= 900
        asm volatile(
            "{\n"
            ".reg .pred there;\n"
            "AGAIN:\n"
            "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 there, [%0], %1;\n"
            "@!there bra AGAIN;\n"
            "}" ::"r"(address_of(storage_.arrived + chunk)),
            "r"(parity_)
            : "memory");
#elif __CUDA_ARCH__ >= 800
        // All groups but the younger ones.
        static_assert(kCacheChunks == 4, "a case for each");
        switch (chunk) {
            case 0: wait_for_copies<3>(); break;
            case 1: wait_for_copies<2>(); break;
            case 2: wait_for_copies<1>(); break;
            default: wait_for_copies<0>(); break;
        }
#endif
    }

  private:
    uint32_t address_;  // of `packs` in shared memory
    uint32_t count_;
    uint32_t chunk_;  // packs of every chunk but the last ones, which can have fewer: some a thread
    SliceCacheStorage &storage_;
    uint32_t parity_;  // of the phase that this row's packs complete

    __device__ __forceinline__ static uint32_t address_of(const void *shared) {
        return uint32_t(__cvta_generic_to_shared(shared));
    }

    // A chunk: where threads order, this one's packs of it.
    __device__ __forceinline__ void order(uint32_t chunk, const uint4 *from) const {
        const uint32_t begin = min(chunk * chunk_, count_), end = end_of(chunk);
#if __CUDA_ARCH__ >= 900
        const uint32_t bytes = (end - begin) * XENT_PACK_BYTES;
        expect(storage_.arrived + chunk, bytes);
        if (bytes != 0) copy(packs + begin, from + begin, bytes, storage_.arrived + chunk);
#elif __CUDA_ARCH__ >= 800
        for (uint32_t pack = begin + threadIdx.x; pack < end; pack += blockDim.x) {
            copy_pack_async(packs + pack, from + pack);
        }
        close_copy_group();
#endif
    }

#if __CUDA_ARCH__ >= 900
    // For one arrival a phase: the one that says how many bytes it waits for.
    __device__ __forceinline__ static void init(uint64_t *barrier) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address_of(barrier)) : "memory");
    }
    __device__ __forceinline__ static void expect(uint64_t *barrier, uint32_t bytes) {
        asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(
                         address_of(barrier)),
                     "r"(bytes)
                     : "memory");
    }
    __device__ __forceinline__ static void copy(uint4 *to, const uint4 *from, uint32_t bytes,
                                                uint64_t *barrier) {
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
            "[%3];" ::"r"(address_of(to)),
            "l"(from), "r"(bytes), "r"(address_of(barrier))
            : "memory");
    }
#endif
};

}  // namespace xent
