// Blocks of a cluster, and launches that overlap: the instructions that C++ has no word for. On GPUs
// before sm_90 there are none of either: a cluster is one block, and a launch begins when the one before
// it has ended.
//
// Each is `volatile` with a "memory" clobber, so that the compiler moves no access across it.
#pragma once

#include <stdint.h>

// What a kernel of clusters does; nobody launches what is compiled for GPUs that have none.
#if __CUDA_ARCH__ >= 900
#define XENT_CLUSTER(...) __VA_ARGS__
#else
#define XENT_CLUSTER(...) __trap()
#endif

namespace xent {

// ---------------------------------------------------------------- launches that overlap

// The next launch may begin once every block of this one has come here, or ended.
__device__ __forceinline__ void let_next_launch_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// What the launch before this one wrote is there, and it reads nothing more.
__device__ __forceinline__ void wait_for_launch_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

#if __CUDA_ARCH__ >= 900
// ---------------------------------------------------------------- blocks of a cluster

__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ __forceinline__ uint32_t cluster_size() {
    uint32_t size;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
}

// All threads of all blocks arrive, and then wait: what they wrote before is visible after.
__device__ __forceinline__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// In place of the first, of threads that have written nothing for the other blocks: that they have begun. To
// release takes until all that a thread asked of memory has happened.
__device__ __forceinline__ void cluster_arrive_relaxed() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

// To the same place in block `rank`'s shared memory.
__device__ __forceinline__ void store_to_block(uint4 *here, uint32_t rank, uint4 value) {
    asm volatile(
        "{\n"
        ".reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "st.shared::cluster.v4.u32 [there], {%2, %3, %4, %5};\n"
        "}" ::"r"(uint32_t(__cvta_generic_to_shared(here))),
        "r"(rank), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w)
        : "memory");
}
#endif

}  // namespace xent
