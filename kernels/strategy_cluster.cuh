// cluster: the blocks of a cluster share a row, a slice each. sm_90 and later.
//
// Traffic: as slice_packs.cuh; beside it a few words a block and row through distributed shared memory.
// Parallelism: cluster i takes rows i, i + clusters, ...; all its blocks find the same bits.
// Invariants: no block ends, or writes to its peers, before they are ready for it: reduce.cuh.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "cluster.cuh"
#include "reduce.cuh"
#include "row.cuh"
#include "slice_cache.cuh"
#include "slice_packs.cuh"
#include "speakers.cuh"
#include "vector.cuh"

namespace xent {

#if __CUDA_ARCH__ >= 900
template <typename T, class Terms>
struct ClusterStrategy {
    using Element = T;
    using TermsOfRow = Terms;
    using Row = xent::Row<T, Terms, ClusterTeam, SlicePacks<T, Terms>>;
    static constexpr bool kSharesWarps = false;
    static constexpr bool kLooksAhead = false;
    static constexpr bool kHasTwoLaunches = false;
    static constexpr uint32_t kDividedSlots = 1;

    struct Storage {
        BlockStorage block;
        ClusterStorage cluster;
        SliceCacheStorage cache;
    };

    ClusterTeam team;
    SlicePlace place;

    __device__ __forceinline__ ClusterStrategy(Storage &storage, uint4 *shared,
                                               const XentGeometry &geometry, uint32_t classes)
        : team(storage.block, storage.cluster),
          place{SliceCache(shared, storage.cache, geometry.cached_packs),
                Slice(cluster_rank(), cluster_size(), classes / kPackSize<T>),
                geometry.cached_packs} {
        // The cache's mbarriers are there for all.
        __syncthreads();
    }

    // As BlockStrategy's.
    template <class Summary, class Body, class Report>
    __device__ __forceinline__ void for_each_row(uint64_t rows, const Body &body,
                                                 const Report &report) {
        const uint32_t clusters = gridDim.x / cluster_size();
        for (uint64_t index = blockIdx.x / cluster_size(); index < rows; index += clusters) {
            body(index, [&](const Summary &summary) {
                if (threadIdx.x < kWarpSize && cluster_rank() == 0) {
                    report(summary, Speakers::first_lane(index));
                }
            });
            // All warps have read the block's storage and the cache; the next row writes both.
            team.separate();
        }
        team.end();
    }

    __device__ __forceinline__ Row row(const T *input, uint64_t, const RowLayout<T> &layout,
                                       const Terms &terms, const XentTransform &by,
                                       uint32_t target) {
        Row row(input, layout, terms, by, target, team, place);
        row.load_singles();
        return row;
    }

    __device__ __forceinline__ void write_zeros(T *to, uint32_t classes) const {
        block_write_zeros(to, classes, place.slice);
    }

    __device__ __forceinline__ void close_output(T *, uint64_t) const {}

    __device__ __forceinline__ bool finds() const { return threadIdx.x < kWarpSize; }
    __device__ __forceinline__ uint32_t slot() const { return 0; }
};
#endif

}  // namespace xent
