// How a row of any length and alignment is cut into 16-byte packs.
//
//     | head | pack 0 | pack 1 | ... | pack packs-1 | tail |
//              ^ 16-byte aligned
//
// Head and tail together are fewer than two packs and are called the row's edges.
//
// Invariants: head + packs * kPackSize + tail == classes; no access reaches outside the row, so
// none reaches outside the allocation. Positions are 32-bit within a row, 64-bit between rows.
#pragma once

#include <stdint.h>

#include "abi.h"

namespace xent {

template <typename T>
constexpr uint32_t kPackSize = XENT_PACK_BYTES / sizeof(T);

constexpr uint32_t kNoPack = UINT32_MAX;

template <typename T>
struct RowLayout {
    uint32_t classes;
    uint32_t head;
    uint32_t packs;
    uint32_t tail;

    __device__ __forceinline__ RowLayout(const T *row, uint32_t elements) : classes(elements) {
        const uint32_t misaligned_bytes = uint32_t(uintptr_t(row)) % XENT_PACK_BYTES;
        const uint32_t to_boundary =
            (XENT_PACK_BYTES - misaligned_bytes) % XENT_PACK_BYTES / uint32_t(sizeof(T));
        head = min(to_boundary, classes);
        packs = (classes - head) / kPackSize<T>;
        tail = classes - head - packs * kPackSize<T>;
    }

    __device__ __forceinline__ uint32_t edges() const { return head + tail; }

    // Position of edge element i, i < edges().
    __device__ __forceinline__ uint32_t edge(uint32_t i) const {
        return i < head ? i : packs * kPackSize<T> + i;
    }

    // Position of the first element of a pack.
    __device__ __forceinline__ uint32_t start_of(uint32_t pack) const {
        return head + pack * kPackSize<T>;
    }

    // The pack that holds a position, or kNoPack where an edge does.
    __device__ __forceinline__ uint32_t pack_of(uint32_t position) const {
        const uint32_t in_body = position - head;  // wraps for the head: then it is >= the body
        return in_body < packs * kPackSize<T> ? in_body / kPackSize<T> : kNoPack;
    }

    // First of the 16-byte packs.
    __device__ __forceinline__ const uint4 *body(const T *row) const {
        return reinterpret_cast<const uint4 *>(row + head);
    }
    __device__ __forceinline__ uint4 *body(T *row) const {
        return reinterpret_cast<uint4 *>(row + head);
    }
};

// Packs from the start of a 32-byte sector of memory to this one: 0 or 1.
__device__ __forceinline__ uint32_t packs_before_sector(const uint4 *pack) {
    constexpr uint32_t kSectorBytes = 32;
    return uint32_t(uintptr_t(pack)) % kSectorBytes / XENT_PACK_BYTES;
}

// Which packs of a row's body a block takes, of `parts` that are alike; a row's edges belong to part 0.
struct Slice {
    uint32_t part;
    uint32_t width;  // packs of every part but the last ones, which can have fewer

    __device__ __forceinline__ Slice(uint32_t which, uint32_t parts, uint32_t most_packs)
        : part(which), width((most_packs + parts - 1) / parts) {}

    __device__ __forceinline__ bool has_edges() const { return part == 0; }
    __device__ __forceinline__ uint32_t begin(uint32_t packs) const {
        return min(part * width, packs);
    }
    __device__ __forceinline__ uint32_t end(uint32_t packs) const {
        return min((part + 1) * width, packs);
    }
    // The part that has a pack, or the edges for kNoPack.
    __device__ __forceinline__ uint32_t owner_of(uint32_t pack) const {
        return pack == kNoPack ? 0 : pack / width;
    }
};

// Whether kPackSize<T> elements of a row of Q, from where the packs of a row of T start, are aligned to
// their width, or to the widest access.
template <typename Q, typename T>
__device__ __forceinline__ bool aligned_with_packs(const Q *row, const RowLayout<T> &layout) {
    constexpr uint32_t kWidth =
        kPackSize<T> * sizeof(Q) < XENT_PACK_BYTES ? kPackSize<T> * sizeof(Q) : XENT_PACK_BYTES;
    return uintptr_t(row + layout.head) % kWidth == 0;
}

// Whether packs cut for one row fall on 16-byte boundaries of the other too.
template <typename T>
__device__ __forceinline__ bool same_alignment(const T *a, const T *b) {
    return (uintptr_t(a) - uintptr_t(b)) % XENT_PACK_BYTES == 0;
}

}  // namespace xent
