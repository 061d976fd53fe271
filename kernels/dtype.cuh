// The stored types of logits and gradients, and how 16 bytes of them become f32 and back.
//
// Invariants: every conversion to f32 is exact; every conversion from f32 rounds once, to nearest
// even. No other header names __half or __nv_bfloat16.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "abi.h"

namespace xent {

using Half = __half;
using Bfloat16 = __nv_bfloat16;

template <typename T>
struct Dtype;

template <>
struct Dtype<float> {
    static constexpr unsigned kLowestWord = 0xff800000u;  // -inf

    static __device__ __forceinline__ float widen(float x) { return x; }
    static __device__ __forceinline__ float narrow(float x) { return x; }
    static __device__ __forceinline__ unsigned larger(unsigned a, unsigned b) {
        return __float_as_uint(fmaxf(__uint_as_float(a), __uint_as_float(b)));
    }

    static __device__ __forceinline__ void unpack(uint4 pack, float (&x)[4]) {
        x[0] = __uint_as_float(pack.x);
        x[1] = __uint_as_float(pack.y);
        x[2] = __uint_as_float(pack.z);
        x[3] = __uint_as_float(pack.w);
    }
    static __device__ __forceinline__ uint4 pack(const float (&x)[4]) {
        return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                          __float_as_uint(x[3]));
    }
};

template <>
struct Dtype<__half> {
    static constexpr unsigned kLowestWord = 0xfc00fc00u;  // -inf twice

    static __device__ __forceinline__ float widen(__half x) { return __half2float(x); }
    static __device__ __forceinline__ __half narrow(float x) { return __float2half_rn(x); }

    // __half22float2 would take the pair apart once for each of the two.
    static __device__ __forceinline__ float2 unpack2(unsigned bits) {
        float2 both;
        asm("{.reg .f16 low, high;\n"
            " mov.b32 {low, high}, %2;\n"
            " cvt.f32.f16 %0, low;\n"
            " cvt.f32.f16 %1, high;}"
            : "=f"(both.x), "=f"(both.y)
            : "r"(bits));
        return both;
    }
    static __device__ __forceinline__ unsigned pack2(float low, float high) {
        const __half2 both = __floats2half2_rn(low, high);
        return *reinterpret_cast<const unsigned *>(&both);
    }
#if __CUDA_ARCH__ >= 800
    static __device__ __forceinline__ unsigned larger(unsigned a, unsigned b) {
        asm("max.f16x2 %0, %0, %1;" : "+r"(a) : "r"(b));
        return a;
    }
#endif
};

template <>
struct Dtype<__nv_bfloat16> {
    static constexpr unsigned kLowestWord = 0xff80ff80u;  // -inf twice

    static __device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
    static __device__ __forceinline__ __nv_bfloat16 narrow(float x) {
        return __float2bfloat16_rn(x);
    }

    // A bf16 is the upper half of an f32: two integer instructions, on every architecture, and no moves
    // to another type between them.
    static __device__ __forceinline__ float2 unpack2(unsigned bits) {
        float2 both;
        asm("shl.b32 %0, %2, 16;\n"
            "and.b32 %1, %2, 0xffff0000;"
            : "=f"(both.x), "=f"(both.y)
            : "r"(bits));
        return both;
    }
    static __device__ __forceinline__ unsigned pack2(float low, float high) {
        const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
        return *reinterpret_cast<const unsigned *>(&both);
    }
#if __CUDA_ARCH__ >= 800
    static __device__ __forceinline__ unsigned larger(unsigned a, unsigned b) {
        asm("max.bf16x2 %0, %0, %1;" : "+r"(a) : "r"(b));
        return a;
    }
#endif
};

// The two half precisions share the shape of a pack: eight elements, two to a register.
template <typename T>
__device__ __forceinline__ void unpack(uint4 pack, float (&x)[8]) {
    const unsigned words[4] = {pack.x, pack.y, pack.z, pack.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 both = Dtype<T>::unpack2(words[i]);
        x[2 * i] = both.x;
        x[2 * i + 1] = both.y;
    }
}

template <typename T>
__device__ __forceinline__ uint4 pack(const float (&x)[8]) {
    return make_uint4(Dtype<T>::pack2(x[0], x[1]), Dtype<T>::pack2(x[2], x[3]),
                      Dtype<T>::pack2(x[4], x[5]), Dtype<T>::pack2(x[6], x[7]));
}

template <typename T>
__device__ __forceinline__ void unpack(uint4 pack, float (&x)[4]) {
    Dtype<T>::unpack(pack, x);
}

template <typename T>
__device__ __forceinline__ uint4 pack(const float (&x)[4]) {
    return Dtype<T>::pack(x);
}

// A pack of nothing but -inf.
template <typename T>
__device__ __forceinline__ uint4 lowest_pack() {
    constexpr unsigned kWord = Dtype<T>::kLowestWord;
    return make_uint4(kWord, kWord, kWord, kWord);
}

// Stores a pack, or not where `there` is 0, without a branch: what was computed of it is computed in any case.
__device__ __forceinline__ void store_pack_if(uint32_t there, uint4 *to, uint4 bits) {
    asm volatile(
        "{\n"
        ".reg .pred there;\n"
        "setp.ne.u32 there, %5, 0;\n"
        "@there st.global.v4.b32 [%0], {%1, %2, %3, %4};\n"
        "}" ::"l"(__cvta_generic_to_global(to)),
        "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w), "r"(there)
        : "memory");
}

// Whether packs are compared as they are stored: of half precision, two elements at once, where there is such an
// instruction.
template <typename T>
#if __CUDA_ARCH__ >= 800
constexpr bool kComparesPacks = true;
#else
constexpr bool kComparesPacks = sizeof(T) == sizeof(float);
#endif

// The larger ones of two such packs, element by element, and the largest of one; NaN is passed over, as by fmaxf.
template <typename T>
__device__ __forceinline__ uint4 larger(uint4 a, uint4 b) {
    return make_uint4(Dtype<T>::larger(a.x, b.x), Dtype<T>::larger(a.y, b.y),
                      Dtype<T>::larger(a.z, b.z), Dtype<T>::larger(a.w, b.w));
}
template <typename T>
__device__ __forceinline__ float largest_of(uint4 pack) {
    const unsigned word = Dtype<T>::larger(Dtype<T>::larger(pack.x, pack.y),
                                           Dtype<T>::larger(pack.z, pack.w));
    if constexpr (sizeof(T) == sizeof(float)) {
        return __uint_as_float(word);
    } else {
        const float2 two = Dtype<T>::unpack2(word);
        return fmaxf(two.x, two.y);
    }
}

template <typename T>
__device__ __forceinline__ float widen(T x) {
    return Dtype<T>::widen(x);
}

template <typename T>
__device__ __forceinline__ float load_one(const T *from) {
    return widen(*from);
}

// Aligned to the two.
template <typename T>
__device__ __forceinline__ void load_two(const T *from, float &first, float &second) {
    float2 both;
    if constexpr (sizeof(T) == 2) {
        both = Dtype<T>::unpack2(*reinterpret_cast<const unsigned *>(from));
    } else {
        both = *reinterpret_cast<const float2 *>(from);
    }
    first = both.x;
    second = both.y;
}

template <typename T>
__device__ __forceinline__ void store_one(T *to, float x) {
    *to = Dtype<T>::narrow(x);
}

// Aligned to the two.
template <typename T>
__device__ __forceinline__ void store_two(T *to, float first, float second) {
    if constexpr (sizeof(T) == 2) {
        *reinterpret_cast<unsigned *>(to) = Dtype<T>::pack2(first, second);
    } else {
        *reinterpret_cast<float2 *>(to) = make_float2(first, second);
    }
}

// N consecutive elements, the size of a pack of some dtype; in as few loads as there can be where
// `aligned` says that they are aligned to their width, or to 16 bytes.
template <typename T, int N>
__device__ __forceinline__ void load_run(const T *from, bool aligned, float (&x)[N]) {
    if (!aligned) {
        // In pairs, with a single one at either end where they start between two.
        if (uintptr_t(from) % (2 * sizeof(T)) == 0) {
#pragma unroll
            for (int i = 0; i < N; i += 2) load_two(from + i, x[i], x[i + 1]);
        } else {
            x[0] = load_one(from);
#pragma unroll
            for (int i = 1; i < N - 1; i += 2) load_two(from + i, x[i], x[i + 1]);
            x[N - 1] = load_one(from + N - 1);
        }
    } else if constexpr (N * sizeof(T) < XENT_PACK_BYTES) {
        static_assert(N == 4 && sizeof(T) == 2, "half a pack");
        const uint2 bits = *reinterpret_cast<const uint2 *>(from);
        const float2 low = Dtype<T>::unpack2(bits.x), high = Dtype<T>::unpack2(bits.y);
        x[0] = low.x;
        x[1] = low.y;
        x[2] = high.x;
        x[3] = high.y;
    } else {
        constexpr int kInPack = XENT_PACK_BYTES / sizeof(T);
#pragma unroll
        for (int start = 0; start < N; start += kInPack) {
            float part[kInPack];
            unpack<T>(*reinterpret_cast<const uint4 *>(from + start), part);
#pragma unroll
            for (int i = 0; i < kInPack; ++i) x[start + i] = part[i];
        }
    }
}

// N elements that are aligned to their width: one, two, four, or a pack.
template <typename T, int N>
__device__ __forceinline__ void load_few(const T *from, float (&x)[N]) {
    if constexpr (N == 1) {
        x[0] = load_one(from);
    } else if constexpr (N == 2) {
        load_two(from, x[0], x[1]);
    } else if constexpr (N * sizeof(T) < XENT_PACK_BYTES) {
        load_run(from, true, x);
    } else {
        unpack<T>(*reinterpret_cast<const uint4 *>(from), x);
    }
}
template <typename T, int N>
__device__ __forceinline__ void store_few(T *to, const float (&x)[N]) {
    if constexpr (N == 1) {
        store_one(to, x[0]);
    } else if constexpr (N == 2) {
        store_two(to, x[0], x[1]);
    } else if constexpr (N * sizeof(T) < XENT_PACK_BYTES) {
        static_assert(N == 4 && sizeof(T) == 2, "half a pack");
        *reinterpret_cast<uint2 *>(to) =
            make_uint2(Dtype<T>::pack2(x[0], x[1]), Dtype<T>::pack2(x[2], x[3]));
    } else {
        *reinterpret_cast<uint4 *>(to) = pack<T>(x);
    }
}

// A pack of consecutive elements, as it is stored: in one load where it is aligned.
template <typename T>
__device__ __forceinline__ uint4 load_bits(const T *from, bool aligned) {
    if (aligned) return *reinterpret_cast<const uint4 *>(from);
    constexpr int kSize = XENT_PACK_BYTES / sizeof(T);
    float x[kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) x[i] = load_one(from + i);
    return pack<T>(x);  // exact: they were of this type
}

// The same the other way.
template <typename T, int N>
__device__ __forceinline__ void store_run(T *to, bool aligned, const float (&x)[N]) {
    static_assert(N * sizeof(T) == XENT_PACK_BYTES, "one pack");
    if (aligned) {
        // A plain store of a uint4 becomes four here: the compiler forgets how it is aligned.
        __stwb(reinterpret_cast<uint4 *>(to), pack<T>(x));
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) store_one(to + i, x[i]);
    }
}

}  // namespace xent
