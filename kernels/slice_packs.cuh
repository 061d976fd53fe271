// Where a block has the packs of its slice of a row: in shared memory as far as that reaches, the rest in
// device memory. Under block, cluster and split_row.
//
// Traffic: 16 bytes a pack, read once; what shared memory has no room for is read again by each further
//     pass, last packs first, so that what the L2 cache still holds comes first.
// Parallelism: pack i of a slice belongs to thread i % blockDim.x in all passes, so that a thread reads back
//     from shared memory only what is its own, and adds in the same order however much is kept: all, or a
//     whole number of packs a thread.
#pragma once

#include <stdint.h>

#include <type_traits>

#include "abi.h"
#include "dtype.cuh"
#include "pack_batch.cuh"
#include "row.cuh"
#include "slice_cache.cuh"
#include "vector.cuh"

namespace xent {

// What a block's packs are made of beside the row: the same for all its rows.
struct SlicePlace {
    SliceCache cache;
    Slice slice;
    uint32_t cached_packs;
};

template <typename T, class Terms>
class SlicePacks {
    // Weights that come from memory with their elements are kept with them, by whoever brought them.
    static constexpr bool kFillsItself = SliceCache::kFillsItself && !Terms::kStreamed;

  public:
    static constexpr bool kAtHand = false;

    // `skipped` is a pack that no pass shall visit, or kNoPack.
    __device__ __forceinline__ SlicePacks(const uint4 *body, uint32_t packs, uint32_t skipped,
                                          SlicePlace &place)
        : body_(body),
          skipped_(skipped),
          slice_(place.slice),
          begin_(place.slice.begin(packs)),
          end_(place.slice.end(packs)),
          most_cached_(place.cached_packs),
          cached_(min(most_cached_, end_ - begin_)),
          cache_(place.cache) {
        if (kFillsItself && most_cached_ != 0) cache_.fill(body_ + begin_, cached_);
    }

    __device__ __forceinline__ uint32_t begin() const { return begin_; }
    __device__ __forceinline__ uint32_t end() const { return end_; }
    __device__ __forceinline__ bool has_edges() const { return slice_.has_edges(); }
    // kNoPack is nobody's.
    __device__ __forceinline__ bool takes(uint32_t pack) const {
        return pack >= begin_ && pack < end_;
    }
    __device__ __forceinline__ uint32_t owner_of(uint32_t pack) const {
        return slice_.owner_of(pack);
    }
    __device__ __forceinline__ bool is_kept(uint32_t pack) const { return pack - begin_ < cached_; }

    // After a first pass.
    __device__ __forceinline__ uint4 fetch(uint32_t pack) const {
        return is_kept(pack) ? cache_.packs[pack - begin_] : body_[pack];
    }

    // do_with(index, bits) for this thread's packs, first ones first.
    template <Pass pass, class Do>
    __device__ __forceinline__ void forward(const Do &do_with) {
        if (kFillsItself || pass == Pass::kLater) {
            if (cached_ != 0) {
                forward_in_cache<pass>([&](uint32_t from, uint32_t to) {
                    for_each_kept(from, to, do_with);
                });
            }
        } else {
            forward_in_memory<true>(begin_, begin_ + cached_, do_with);
        }
        forward_in_memory<false>(begin_ + cached_, end_, do_with);
    }

    // take(batch, AllThere or SomeThere) for them in a first pass.
    template <class Take>
    __device__ __forceinline__ void forward_in_batches(const Take &take) {
        const auto from_memory = [&](uint32_t index) { return body_[index]; };
        if constexpr (kFillsItself) {
            if (cached_ != 0) {
                forward_in_cache<Pass::kFirst>([&](uint32_t from, uint32_t to) {
                    kept_in_batches<true>(from, to, take);
                });
            }
        } else {
            in_batches<Terms::kPacksInFlight, true>(
                begin_, begin_ + cached_, skipped_, from_memory, [&](const auto &batch, auto which) {
                    for_each_pack(batch, which, [&](uint32_t index, uint4 bits) {
                        cache_.packs[index - begin_] = bits;
                    });
                    take(batch, which);
                });
        }
        in_batches<Terms::kPacksInFlight, true>(begin_ + cached_, end_, skipped_, from_memory, take);
    }

    // do_with(index, bits, prefetch(index)) after a first pass, of what is not kept the last packs first.
    // What `prefetch` loads is on its way for several packs at once, and read before do_with writes.
    template <class Prefetch, class Do>
    __device__ __forceinline__ void backward(const Prefetch &prefetch, const Do &do_with) const {
        const uint32_t first = begin_ + cached_;
        backward_batched<Terms::kPacksInFlight>(
            first, end_, [&](uint32_t index) { return body_[index]; }, prefetch, do_with);
        // Shared memory is near; what is loaded beside it is not.
        if constexpr (std::is_same_v<decltype(prefetch(0)), Nothing>) {
            const auto take = [&](uint32_t index, uint4 bits) { do_with(index, bits, Nothing()); };
            if constexpr (Terms::kKnowsCap) {
                for_each_kept(0, cached_, take);
            } else {
                // By one way for all: a lane on another would store apart from its warp.
                kept_in_batches<false>(0, cached_, [&](const auto &batch, auto which) {
                    for_each_pack(batch, which, take);
                });
            }
        } else {
            backward_batched<Terms::kPacksInFlight>(
                begin_, first, [&](uint32_t index) { return cache_.packs[index - begin_]; },
                prefetch, do_with);
        }
    }

    // Behind the kept packs, in planes of 16 bytes a pack, so that neighbours do not share banks.
    template <uint32_t kSize>
    __device__ __forceinline__ void keep_weights(uint32_t pack, const float (&v)[kSize]) const {
#pragma unroll
        for (uint32_t i = 0; i < kSize; i += 4) {
            *weights(i / 4, pack) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
        }
    }
    template <uint32_t kSize>
    __device__ __forceinline__ void load_weights(uint32_t pack, float (&v)[kSize]) const {
#pragma unroll
        for (uint32_t i = 0; i < kSize; i += 4) {
            const float4 four = *weights(i / 4, pack);
            v[i] = four.x;
            v[i + 1] = four.y;
            v[i + 2] = four.z;
            v[i + 3] = four.w;
        }
    }

  private:
    const uint4 *body_;
    uint32_t skipped_;
    Slice slice_;
    uint32_t begin_;
    uint32_t end_;
    uint32_t most_cached_;
    uint32_t cached_;  // packs [begin, begin + cached) are kept
    SliceCache &cache_;

    // take(from, to) for parts of what is kept, as they are there.
    template <Pass pass, class Take>
    __device__ __forceinline__ void forward_in_cache(const Take &take) const {
        uint32_t from = 0;
#pragma unroll 1
        for (uint32_t chunk = 0; from < cached_; ++chunk) {
            // All at once where they have been there since an earlier pass.
            const uint32_t to = pass == Pass::kFirst ? cache_.end_of(chunk) : cached_;
            if (pass == Pass::kFirst) cache_.wait_for(chunk);
            take(from, to);
            from = to;
        }
    }

    // do_with(index, bits) for this thread's packs from begin + from to begin + to, all of which are kept.
    template <class Do>
    __device__ __forceinline__ void for_each_kept(uint32_t from, uint32_t to,
                                                  const Do &do_with) const {
#pragma unroll 2
        for (uint32_t i = from + threadIdx.x; i < to; i += blockDim.x) {
            if (begin_ + i != skipped_) do_with(begin_ + i, cache_.packs[i]);
        }
    }
    // take(batch, AllThere or SomeThere) for them.
    template <bool kTwice, class Take>
    __device__ __forceinline__ void kept_in_batches(uint32_t from, uint32_t to,
                                                    const Take &take) const {
        const auto load = [&](uint32_t index) { return cache_.load(index - begin_); };
        in_batches<XENT_PACKS_AT_ONCE, kTwice>(begin_ + from, begin_ + to, skipped_, load, take);
    }

    template <uint32_t kBatch, class Fetch, class Prefetch, class Do>
    __device__ __forceinline__ void backward_batched(uint32_t from, uint32_t to, const Fetch &fetch,
                                                     const Prefetch &prefetch,
                                                     const Do &do_with) const {
        const uint32_t stride = kBatch * blockDim.x;
        for (uint32_t round = (to - from + stride - 1) / stride; round-- > 0;) {
            const uint32_t start = from + round * stride + threadIdx.x;
            uint4 batch[kBatch];
            decltype(prefetch(0)) beside[kBatch];
#pragma unroll
            for (uint32_t i = 0; i < kBatch; ++i) {
                const uint32_t index = start + i * blockDim.x;
                if (index < to && index != skipped_) {
                    batch[i] = fetch(index);
                    beside[i] = prefetch(index);
                }
            }
#pragma unroll
            for (uint32_t i = kBatch; i-- > 0;) {
                const uint32_t index = start + i * blockDim.x;
                if (index < to && index != skipped_) do_with(index, batch[i], beside[i]);
            }
        }
    }

    template <bool kKeeps, class Do>
    __device__ __forceinline__ void forward_in_memory(uint32_t from, uint32_t to,
                                                      const Do &do_with) const {
        constexpr uint32_t kBatch = Terms::kPacksInFlight;
        const auto take = [&](uint32_t index, uint4 bits) {
            if (index == skipped_) return;
            if (kKeeps) cache_.packs[index - begin_] = bits;
            do_with(index, bits);
        };
        uint32_t start = from + threadIdx.x;
        // Whole batches, loaded without conditions: the skipped pack, too, is written by nobody before the
        // merge that ends this pass.
#pragma unroll 1
        for (; start + (kBatch - 1) * blockDim.x < to; start += kBatch * blockDim.x) {
            uint4 batch[kBatch];
#pragma unroll
            for (uint32_t i = 0; i < kBatch; ++i) batch[i] = body_[start + i * blockDim.x];
#pragma unroll
            for (uint32_t i = 0; i < kBatch; ++i) take(start + i * blockDim.x, batch[i]);
        }
#pragma unroll 1
        for (; start < to; start += blockDim.x) take(start, body_[start]);
    }

    __device__ __forceinline__ float4 *weights(uint32_t part, uint32_t pack) const {
        return reinterpret_cast<float4 *>(cache_.packs) + (1 + part) * cached_ + pack - begin_;
    }
};

// A block's part of an output row of zeros; nothing is read.
template <typename T>
__device__ __forceinline__ void block_write_zeros(T *to, uint32_t classes, const Slice &slice) {
    const RowLayout<T> layout(to, classes);
    const uint32_t end = slice.end(layout.packs);
    for (uint32_t index = slice.begin(layout.packs) + threadIdx.x; index < end;
         index += blockDim.x) {
        layout.body(to)[index] = make_uint4(0, 0, 0, 0);
    }
    if (slice.has_edges() && threadIdx.x < layout.edges()) {
        store_one(to + layout.edge(threadIdx.x), 0.0f);
    }
}

}  // namespace xent
