// warp: a row in the registers of one warp, kPacks packs a lane at most.
//
// Traffic: with b bytes an element, b * classes read and as many written. Weights of elements, and rows
//     whose output is not cut as the input is, are read a second time, from the cache closest by.
// Parallelism: pack i of a row belongs to lane i % 32; single elements (row.cuh) lie one a lane.
//     A warp takes rows_per_warp consecutive rows and then says what is known of them, a lane a row.
// Invariants: rows have at most 32 * kPacks packs. No barrier of the block.
#pragma once

#include <stdint.h>

#include "abi.h"
#include "dtype.cuh"
#include "reduce.cuh"
#include "row.cuh"
#include "speakers.cuh"
#include "vector.cuh"

namespace xent {

// Where a warp has the packs of a row: pack i in the registers of lane i % 32.
template <uint32_t kPacks>
class WarpPacks {
  public:
    // `skipped` is a pack that no pass shall visit, or kNoPack.
    template <class Place>
    __device__ __forceinline__ WarpPacks(const uint4 *body, uint32_t packs, uint32_t skipped,
                                         const Place &)
        : body_(body), packs_(packs), skipped_(skipped) {
        for_each([&](uint32_t i, uint32_t index) { kept_[i] = body_[index]; });
    }

    __device__ __forceinline__ uint32_t begin() const { return 0; }
    __device__ __forceinline__ uint32_t end() const { return packs_; }
    __device__ __forceinline__ bool has_edges() const { return true; }
    // kNoPack is nobody's.
    __device__ __forceinline__ bool takes(uint32_t pack) const { return pack < packs_; }
    __device__ __forceinline__ uint32_t owner_of(uint32_t) const { return 0; }
    // Weights of elements are not kept.
    __device__ __forceinline__ bool is_kept(uint32_t) const { return false; }
    template <uint32_t kSize>
    __device__ __forceinline__ void keep_weights(uint32_t, const float (&)[kSize]) const {}
    template <uint32_t kSize>
    __device__ __forceinline__ void load_weights(uint32_t, float (&)[kSize]) const {}

    // Registers cannot be chosen by an index; the row was read a moment ago, and is not overwritten yet.
    __device__ __forceinline__ uint4 fetch(uint32_t pack) const { return body_[pack]; }

    // do_with(index, bits) for this lane's packs.
    template <Pass, class Do>
    __device__ __forceinline__ void forward(const Do &do_with) const {
        for_each([&](uint32_t i, uint32_t index) { do_with(index, kept_[i]); });
    }
    // do_with(index, bits, prefetch(index)): what `prefetch` loads is read before do_with writes.
    template <class Prefetch, class Do>
    __device__ __forceinline__ void backward(const Prefetch &prefetch, const Do &do_with) const {
        decltype(prefetch(0)) beside[kPacks];
        for_each([&](uint32_t i, uint32_t index) { beside[i] = prefetch(index); });
        for_each([&](uint32_t i, uint32_t index) { do_with(index, kept_[i], beside[i]); });
    }

  private:
    const uint4 *body_;
    uint32_t packs_;
    uint32_t skipped_;
    uint4 kept_[kPacks];

    // Unrolled, so that `kept_` stays in registers; the first condition is the same for the whole warp.
    template <class Do>
    __device__ __forceinline__ void for_each(const Do &do_with) const {
        const uint32_t lane = threadIdx.x % kWarpSize;
#pragma unroll
        for (uint32_t i = 0; i < kPacks; ++i) {
            if (i * kWarpSize < packs_) {
                const uint32_t index = i * kWarpSize + lane;
                if (index < packs_ && index != skipped_) do_with(i, index);
            }
        }
    }
};

// An output row of zeros by one warp; nothing is read.
template <typename T>
__device__ __forceinline__ void warp_write_zeros(T *to, uint32_t classes) {
    const RowLayout<T> layout(to, classes);
    const uint32_t lane = threadIdx.x % kWarpSize;
    for (uint32_t index = lane; index < layout.packs; index += kWarpSize) {
        layout.body(to)[index] = make_uint4(0, 0, 0, 0);
    }
    if (lane < layout.edges()) store_one(to + layout.edge(lane), 0.0f);
}

template <typename T, class Terms, uint32_t kPacks>
struct WarpStrategy {
    using Element = T;
    using TermsOfRow = Terms;
    static_assert(!Terms::kStreamed, "weights of elements are not kept in registers");
    using Row = xent::Row<T, Terms, WarpTeam, WarpPacks<kPacks>>;
    static constexpr uint32_t kWarps = XENT_WARP_BLOCK_THREADS / kWarpSize;
    static constexpr bool kHasTwoLaunches = false;
    static constexpr uint32_t kDividedSlots = kWarps;

    struct Storage {};

    WarpTeam team;
    uint32_t rows_per_warp;

    __device__ __forceinline__ WarpStrategy(Storage &, uint4 *, const XentGeometry &geometry,
                                            uint32_t)
        : rows_per_warp(geometry.rows_per_warp) {}

    // As BlockStrategy's.
    template <class Summary, class Body, class Report>
    __device__ __forceinline__ void for_each_row(uint64_t rows, const Body &body,
                                                 const Report &report) const {
        // Not in registers: the packs of a row need them.
        __shared__ Summary summaries[kWarps][kWarpSize];
        Summary *const mine = summaries[slot()];
        const uint32_t lane = threadIdx.x % kWarpSize;
        const uint64_t step = uint64_t(gridDim.x) * kWarps * rows_per_warp;
        uint64_t first = (uint64_t(blockIdx.x) * kWarps + slot()) * rows_per_warp;
        for (; first < rows; first += step) {
            const uint32_t count = uint32_t(min(uint64_t(rows_per_warp), rows - first));
            for (uint32_t i = 0; i < count; ++i) {
                body(first + i, [&](const Summary &summary) {
                    if (lane == 0) mine[i] = summary;
                });
            }
            // Lane 0 has written them; below each lane reads one.
            __syncwarp();
            report(mine[lane < count ? lane : 0], Speakers::each_lane(first, count));
            // All lanes have read theirs; lane 0 writes the next ones.
            __syncwarp();
        }
    }

    __device__ __forceinline__ Row row(const T *input, const RowLayout<T> &layout,
                                       const Terms &terms, const XentTransform &by,
                                       uint32_t target) {
        return Row(input, layout, terms, by, target, team, *this);
    }

    __device__ __forceinline__ void write_zeros(T *to, uint32_t classes) const {
        warp_write_zeros(to, classes);
    }

    __device__ __forceinline__ void open_output(T *) const {}
    __device__ __forceinline__ void close_output(T *) const {}

    // Every warp finds what it needs.
    __device__ __forceinline__ bool finds() const { return true; }
    __device__ __forceinline__ uint32_t slot() const { return threadIdx.x / kWarpSize; }
};

}  // namespace xent
