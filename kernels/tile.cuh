// Short rows, many to a warp: where they lie in shared memory between memory and the lanes that share them.
//
// Traffic: a warp's rows come 16 bytes at a time, and go so if the output is aligned as the input is.
// Parallelism: the rows of a warp lie one behind the other, and go through shared memory as one run of packs,
//     since rows of 10 f32 cannot be accessed 16 bytes at a time each for itself. With gaps between rows, lanes
//     access memory element by element. A lane takes consecutive elements of a row, as many at once as the run's
//     alignment and the row's length leave to all lanes.
// Invariants: no access reaches outside the rows. What a lane writes takes the place of what it alone reads, but for
//     a target's logit, which is read by all lanes of the row before the barrier that its own waits for.
#pragma once

#include <stdint.h>

#include <type_traits>

#include "abi.h"
#include "async_copy.cuh"
#include "dtype.cuh"
#include "reduce.cuh"
#include "vector.cuh"

namespace xent {

// Which rows a warp takes: consecutive ones, as many at once as it has lanes for.
class TinyRows {
  public:
    uint64_t first;  // of those at hand
    uint32_t count;

    __device__ __forceinline__ TinyRows(const XentGeometry &geometry, uint64_t rows)
        : at_once_(kWarpSize >> (__ffs(geometry.lanes_per_row) - 1)), uncounted_(0) {
        const uint64_t warp =
            uint64_t(blockIdx.x) * (blockDim.x / kWarpSize) + threadIdx.x / kWarpSize;
        first = warp * geometry.rows_per_warp;
        left_ = first < rows ? min(geometry.rows_per_warp, rows - first) : 0;
        count = uint32_t(min(uint64_t(at_once_), left_));
    }

    __device__ __forceinline__ bool are_left() const { return left_ != 0; }
    __device__ __forceinline__ void go_on() {
        first += count;
        left_ -= count;
        count = uint32_t(min(uint64_t(at_once_), left_));
    }

    // How many rows of the chunk at hand are done with these, if the warp has no more of it, else 0: a ticket
    // is waited for. To be asked once for all rows at hand, which are of one chunk.
    __device__ __forceinline__ uint32_t counted() {
        uncounted_ += count;
        const bool is_last = uint32_t(first + count) % XENT_CHUNK_ROWS == 0 || left_ == count;
        const uint32_t counted = is_last ? uncounted_ : 0;
        if (is_last) uncounted_ = 0;
        return counted;
    }

  private:
    uint64_t left_;
    uint32_t at_once_;
    uint32_t uncounted_;
};

// Elements of a lane that are gone over at once, as a type, so that they are known when code is compiled: kLength of
// them, accessed in runs of kRun. Where a run is shorter, runs at the end can be missing.
template <typename T, uint32_t kElements, uint32_t kElementsOfRun>
struct TileChunk {
    static constexpr uint32_t kLength = kElements;
    static constexpr uint32_t kRun = kElementsOfRun;

    T *elements;        // in the tile
    uint32_t position;  // of the first one in the row
    uint32_t count;     // that there are

    __device__ __forceinline__ bool has(uint32_t i) const { return kRun == kLength || i < count; }

    // -inf for those that are missing.
    __device__ __forceinline__ void load(float (&x)[kLength]) const {
#pragma unroll
        for (uint32_t i = 0; i < kLength; i += kRun) {
            float run[kRun];
#pragma unroll
            for (uint32_t j = 0; j < kRun; ++j) run[j] = -INFINITY;
            if (has(i)) load_few(elements + i, run);
#pragma unroll
            for (uint32_t j = 0; j < kRun; ++j) x[i + j] = run[j];
        }
    }
    __device__ __forceinline__ void store(const float (&x)[kLength]) const {
#pragma unroll
        for (uint32_t i = 0; i < kLength; i += kRun) {
            float run[kRun];
#pragma unroll
            for (uint32_t j = 0; j < kRun; ++j) run[j] = x[i + j];
            if (has(i)) store_few(elements + i, run);
        }
    }
};

// A warp's rows in shared memory, and a lane's part of them.
template <typename T>
class Tile {
  public:
    WarpGroups lanes;  // of a row
    uint32_t rows;     // that the warp has at the moment
    uint32_t group;    // of this lane: its row among them, or beyond
    uint32_t classes;
    uint32_t begin;    // position in the row of this lane's first element
    uint32_t count;    // elements of this lane

    __device__ __forceinline__ Tile(uint4 *shared, const XentGeometry &geometry, uint32_t row_classes)
        : lanes(geometry.lanes_per_row),
          rows(0),
          group(threadIdx.x % kWarpSize >> lanes.log2_width()),
          classes(row_classes),
          before_(0),
          run_(1),
          short_part_(false),
          moved_(0),
          moved_by_(0) {
        // Parts begin where as many elements at once as divide a row do.
        const uint32_t unit = min(classes & (0u - classes), kPackSize<T>);
        uint32_t part = (classes + lanes.width() - 1) >> lanes.log2_width();
        part = (part + unit - 1) & (0u - unit);
        short_part_ = part <= kShortPart;
        begin = min(rank() * part, classes);
        count = min(part, classes - begin);
        // Packs change places among kBankPacks.
        const uint32_t bytes = (kWarpSize >> lanes.log2_width()) * classes * uint32_t(sizeof(T));
        const uint32_t packs = bytes / XENT_PACK_BYTES + 2;
        packs_ = shared + threadIdx.x / kWarpSize * ((packs + kBankPacks - 1) & (0u - kBankPacks));
    }

    __device__ __forceinline__ uint32_t rank() const { return threadIdx.x & (lanes.width() - 1); }
    __device__ __forceinline__ bool has_row() const { return group < rows; }
    // Lanes that have no row look at the last one's in memory, and do nothing with it.
    __device__ __forceinline__ uint32_t row_in_memory() const { return min(group, rows - 1); }

    // An element of this lane's row; those that have none have a place for it.
    __device__ __forceinline__ T &at(uint32_t position) const { return element(group * classes + position); }

    // The warp's rows are about to come from memory: the first one, and elements from one to the next.
    __device__ __forceinline__ void open(const T *first, uint64_t stride) {
        constexpr uint32_t kSize = sizeof(T);
        before_ = is_run(stride) ? uint32_t(uintptr_t(first)) % XENT_PACK_BYTES / kSize : 0;
        const uint32_t bounds = before_ | classes | kPackSize<T>;
        run_ = bounds & (0u - bounds);
        // Lanes that have an even number of packs each would meet at the same banks. Moved so, they meet nowhere
        // up to 16 packs.
        const uint32_t packs = (classes / kPackSize<T> + lanes.width() - 1) >> lanes.log2_width();
        moved_ = run_ == kPackSize<T> ? min(packs & (0u - packs), kBankPacks) - 1 : 0;
        moved_by_ = packs % (2 * kBankPacks) == 0 ? 4 : 3;
    }

    // Called by all lanes, which have been synchronised with those that used the tile before.
    __device__ __forceinline__ void load(const T *first, uint64_t stride) const {
        const uint32_t lane = threadIdx.x % kWarpSize;
        if (is_run(stride)) {
            const RowLayout<T> layout(first, rows * classes);
            for (uint32_t pack = lane; pack < layout.packs; pack += kWarpSize) {
                copy_pack_async(packs_ + place_of(body_pack() + pack), layout.body(first) + pack);
            }
            close_copy_group();
            if (lane < layout.edges()) element(layout.edge(lane)) = first[layout.edge(lane)];
            wait_for_copies<0>();
        } else {
            for_each_element(stride, [&](uint32_t, uint64_t in_memory) { return first[in_memory]; },
                             [&](uint32_t in_tile, uint64_t, T value) { element(in_tile) = value; });
        }
        // Each lane wrote a part; below each reads others.
        __syncwarp();
    }

    // The same the other way.
    __device__ __forceinline__ void store(T *first, uint64_t stride) const {
        // Each lane wrote its part; below each reads others.
        __syncwarp();
        const uint32_t lane = threadIdx.x % kWarpSize;
        if (is_run(stride) &&
            uint32_t(uintptr_t(first)) % XENT_PACK_BYTES == before_ * uint32_t(sizeof(T))) {
            const RowLayout<T> layout(first, rows * classes);
#pragma unroll 2
            for (uint32_t pack = lane; pack < layout.packs; pack += kWarpSize) {
                layout.body(first)[pack] = packs_[place_of(body_pack() + pack)];
            }
            if (lane < layout.edges()) first[layout.edge(lane)] = element(layout.edge(lane));
        } else {
            for_each_element(stride, [&](uint32_t in_tile, uint64_t) { return element(in_tile); },
                             [&](uint32_t, uint64_t in_memory, T value) { first[in_memory] = value; });
        }
        // All lanes have read the tile; the next rows overwrite it.
        __syncwarp();
    }

    // do_with(TileChunk) for this lane's elements, in order.
    template <class Do>
    __device__ __forceinline__ void for_each_chunk(const Do &do_with) const {
        constexpr uint32_t kPack = kPackSize<T>;
        if (run_ == kPack) {
            const uint32_t first = (group * classes + begin) / kPack;
#pragma unroll 2
            for (uint32_t i = 0; i < count; i += kPack) {
                T *const pack = reinterpret_cast<T *>(packs_ + place_of(first + i / kPack));
                do_with(TileChunk<T, kPack, kPack>{pack, begin + i, kPack});
            }
        } else if (kPack > 4 && run_ == 4) {
            for_each_chunk_in_place<4, 4>(do_with);
        } else if (run_ == 2 && short_part_) {
            for_each_chunk_in_place<2, 2>(do_with);
        } else if (run_ == 2) {
            for_each_chunk_in_place<4, 2>(do_with);
        } else if (short_part_) {
            for_each_chunk_in_place<1, 1>(do_with);
        } else {
            for_each_chunk_in_place<4, 1>(do_with);
        }
    }

    __device__ __forceinline__ void fill_with_zeros() const {
        for_each_chunk([&](const auto &chunk) {
            const float zeros[std::decay_t<decltype(chunk)>::kLength] = {};
            chunk.store(zeros);
        });
    }

    // As for_each_chunk, one by one, for what is cold.
    template <class Do>
    __device__ __forceinline__ void for_each(const Do &do_with) const {
#pragma unroll 1
        for (uint32_t i = begin; i < begin + count; ++i) do_with(TileChunk<T, 1, 1>{&at(i), i, 1});
    }

  private:
    // As many as all banks of shared memory hold.
    static constexpr uint32_t kBankPacks = 128 / XENT_PACK_BYTES;
    static_assert(XENT_TINY_TILE_PACKS == kBankPacks, "packs change places within a tile");
    static constexpr uint32_t kShortPart = 16;

    uint4 *packs_;
    uint32_t before_;    // elements of the first pack before the first row
    uint32_t run_;       // elements that all lanes can access at once
    bool short_part_;    // whether lanes have at most kShortPart elements
    uint32_t moved_;     // which bits of a pack's place change,
    uint32_t moved_by_;  // by those of its number from this one on

    __device__ __forceinline__ bool is_run(uint64_t stride) const { return stride == classes; }

    // Where the tile has the first pack that is whole.
    __device__ __forceinline__ uint32_t body_pack() const { return before_ == 0 ? 0 : 1; }

    // Where the tile has a pack.
    __device__ __forceinline__ uint32_t place_of(uint32_t pack) const {
        return pack ^ (pack >> moved_by_ & moved_);
    }
    __device__ __forceinline__ T &element(uint32_t of_run) const {
        const uint32_t i = before_ + of_run;
        T *const elements = reinterpret_cast<T *>(packs_ + place_of(i / kPackSize<T>));
        return elements[i % kPackSize<T>];
    }

    // Of a row that is not of packs, which lies as in memory. Of a long one in chunks of four, so that no sum has
    // more terms than that of a row of packs.
    template <uint32_t kLength, uint32_t kRun, class Do>
    __device__ __forceinline__ void for_each_chunk_in_place(const Do &do_with) const {
        T *const mine = reinterpret_cast<T *>(packs_) + before_ + group * classes + begin;
#pragma unroll (4 / kLength)
        for (uint32_t i = 0; i < count; i += kLength) {
            do_with(TileChunk<T, kLength, kRun>{mine + i, begin + i, count - i});
        }
    }

    // store(element, offset, load(element, offset)) for the elements of all rows, in the tile and in memory, by all
    // lanes together; a few are on their way at once.
    template <class Load, class Store>
    __device__ __forceinline__ void for_each_element(uint64_t stride, const Load &load,
                                                     const Store &store) const {
        constexpr uint32_t kAtOnce = 4;
        const uint32_t all = rows * classes;
        uint32_t row = 0, position = threadIdx.x % kWarpSize;
        for (uint32_t first = 0; first < all; first += kAtOnce * kWarpSize) {
            uint32_t in_tile[kAtOnce];
            uint64_t in_memory[kAtOnce];
            T values[kAtOnce];
#pragma unroll
            for (uint32_t i = 0; i < kAtOnce; ++i) {
                while (position >= classes) {
                    position -= classes;
                    ++row;
                }
                in_tile[i] = row * classes + position;
                in_memory[i] = row * stride + position;
                if (in_tile[i] < all) values[i] = load(in_tile[i], in_memory[i]);
                position += kWarpSize;
            }
#pragma unroll
            for (uint32_t i = 0; i < kAtOnce; ++i) {
                if (in_tile[i] < all) store(in_tile[i], in_memory[i], values[i]);
            }
        }
    }
};

}  // namespace xent
