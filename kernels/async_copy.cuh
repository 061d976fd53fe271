// What goes on by itself between global memory and where it is needed: copies of packs to shared memory (cp.async,
// one pack for a thread), and what comes to the L2 cache before anybody reads it.
//
// Before sm_80 a copy is a load and a store; before sm_90 nothing comes ahead of its time.
#pragma once

#include <stdint.h>

namespace xent {

// What has been there is overwritten at any time from now on.
__device__ __forceinline__ void copy_pack_async(uint4 *to_shared, const uint4 *from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     uint32_t(__cvta_generic_to_shared(to_shared))),
                 "l"(from)
                 : "memory");
#else
    *to_shared = *from;
#endif
}

// So many packs, on their way to the L2 cache. Nobody waits for them, and nothing depends on it.
__device__ __forceinline__ void bring_to_l2(const uint4 *from, uint32_t packs) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(from)),
                 "r"(packs * uint32_t(sizeof(uint4)))
                 : "memory");
#endif
}

// Those that this thread ordered since it last did this are a group.
__device__ __forceinline__ void close_copy_group() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// This thread's groups have arrived, all but the `kYounger` youngest; for other threads, behind a barrier.
template <uint32_t kYounger>
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(kYounger) : "memory");
#endif
}

}  // namespace xent
