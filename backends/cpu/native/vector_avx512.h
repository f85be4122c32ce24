// 512-bit registers: a panel of 16 output rows is one of them. Needs F, BW, DQ, VL and VNNI; BF16 where it is there.
#pragma once

#include <immintrin.h>

#include "formats.h"

namespace polyllama {
namespace {

struct Vector {
    using Floats = __m512;
    using Ints = __m512i;
    using Bytes = __m512i;
    using Broadcast = __m512i;
    static constexpr size_t lanes = 16;
    // Rows and panels of the register tiles: their accumulators, one set of weights and a few more fill 32 registers.
    static constexpr size_t float_rows = 12, float_panels = 2;
    static constexpr size_t pair_rows = 6;
    static constexpr size_t int_rows = 6, int_panels = 2, single_rows = 12;
    static constexpr size_t attention_rows = 16;
#ifdef __AVX512BF16__
    static constexpr bool bf16_dot = true;
#else
    static constexpr bool bf16_dot = false;
#endif

    static Floats zero() { return _mm512_setzero_ps(); }
    static Floats set1(float x) { return _mm512_set1_ps(x); }
    static Floats load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
    static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
    static Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
    static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    static Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
    static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    static Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
    static Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
    static Floats abs(Floats a) { return _mm512_abs_ps(a); }
    static float sum(Floats a) { return _mm512_reduce_add_ps(a); }
    static float largest(Floats a) { return _mm512_reduce_max_ps(a); }
    static Ints nearest(Floats a) { return _mm512_cvtps_epi32(a); }
    static Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
    // 2^n for whole n from -126 to 127
    static Floats power_of_two(Ints n) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
    }

    static Floats load_bf16(const uint16_t* p) {
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
        return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
    }
    static void store_bf16(uint16_t* p, Floats x) {
        __m512i bits = _mm512_castps_si512(x);
        __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        bits = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
        bits = _mm512_mask_set1_epi32(bits, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), kNotANumber);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(bits));
    }
    static Floats load_f16(const uint16_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static void store_f16(uint16_t* p, Floats x) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
    static Floats load_i8(const int8_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
    static void store_i8(int8_t* p, Ints x) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(x));
    }
    // Pairs of bf16 in 32-bit lanes, as floats.
    static void load_pairs(const uint16_t* p, Floats& even, Floats& odd) {
        __m512i pairs = _mm512_loadu_si512(p);
        even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
        odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
    }
#ifdef __AVX512BF16__
    static Floats dot_bf16(Floats sum, const uint16_t* w, const uint16_t* x) {
        int32_t pair;
        __builtin_memcpy(&pair, x, 4);
        return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(w), (__m512bh)_mm512_set1_epi32(pair));
    }
#endif

    static Ints int_zero() { return _mm512_setzero_si512(); }
    static Ints int_add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
    static Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
    static void store_bytes(uint8_t* p, Bytes x) { _mm512_storeu_si512(p, x); }
    static Broadcast broadcast4(const int8_t* p) {
        int32_t four;
        __builtin_memcpy(&four, p, 4);
        return _mm512_set1_epi32(four);
    }
    static void split(Bytes x, Bytes& low, Bytes& high) {
        const __m512i mask = _mm512_set1_epi8(15);
        low = _mm512_and_si512(x, mask);
        high = _mm512_and_si512(_mm512_srli_epi16(x, 4), mask);
    }
    // Four unsigned bytes of w times four signed ones of x, added to each lane. `dot` takes w up to 255, `dot_small` up
    // to 15.
    static Ints dot(Ints sum, Bytes w, Broadcast x) { return _mm512_dpbusd_epi32(sum, w, x); }
    static Ints dot_small(Ints sum, Bytes w, Broadcast x) { return _mm512_dpbusd_epi32(sum, w, x); }
    // The first byte of each lane, then the second and so on, as floats.
    static Floats byte(Bytes x, int i) {
        return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(x, static_cast<unsigned>(8 * i)), _mm512_set1_epi32(255)));
    }
};

}  // namespace
}  // namespace polyllama
