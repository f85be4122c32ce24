// 256-bit registers with FMA and F16C; AVX-VNNI where it is there.
#pragma once

#include <immintrin.h>

#include "formats.h"

namespace polyllama {
namespace {

struct Vector {
    using Floats = __m256;
    using Ints = __m256i;
    using Bytes = __m256i;
    using Broadcast = __m256i;
    static constexpr size_t lanes = 8;
    // Sixteen registers: twelve accumulators of floats; six of integers beside the six floats they end up in.
    static constexpr size_t float_rows = 6, float_panels = 1;
    static constexpr size_t pair_rows = 1;  // it has no product of pairs
    static constexpr size_t int_rows = 3, int_panels = 1, single_rows = 3;
    static constexpr size_t attention_rows = 8;
    static constexpr bool bf16_dot = false;

    static Floats zero() { return _mm256_setzero_ps(); }
    static Floats set1(float x) { return _mm256_set1_ps(x); }
    static Floats load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, Floats x) { _mm256_storeu_ps(p, x); }
    static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
    static Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
    static Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
    static Floats div(Floats a, Floats b) { return _mm256_div_ps(a, b); }
    static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
    static Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
    static Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
    static Floats abs(Floats a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
    static float sum(Floats a) {
        __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
    }
    static float largest(Floats a) {
        __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
    }
    static Ints nearest(Floats a) { return _mm256_cvtps_epi32(a); }
    static Floats to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }
    static Floats power_of_two(Ints n) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
    }

    static Floats load_bf16(const uint16_t* p) {
        __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    }
    static void store_bf16(uint16_t* p, Floats x) {
        __m256i bits = _mm256_castps_si256(x);
        __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        bits = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
        __m256i broken = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        bits = _mm256_blendv_epi8(bits, _mm256_set1_epi32(kNotANumber), broken);
        __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves);
    }
    static Floats load_f16(const uint16_t* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
    static void store_f16(uint16_t* p, Floats x) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
    static Floats load_i8(const int8_t* p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
    }
    static void store_i8(int8_t* p, Ints x) {
        __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(halves, halves));
    }
    static void load_pairs(const uint16_t* p, Floats& even, Floats& odd) {
        __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        even = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
        odd = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
    }

    static Ints int_zero() { return _mm256_setzero_si256(); }
    static Ints int_add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
    static Bytes load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
    static void store_bytes(uint8_t* p, Bytes x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
    static Broadcast broadcast4(const int8_t* p) {
        int32_t four;
        __builtin_memcpy(&four, p, 4);
        return _mm256_set1_epi32(four);
    }
    static void split(Bytes x, Bytes& low, Bytes& high) {
        const __m256i mask = _mm256_set1_epi8(15);
        low = _mm256_and_si256(x, mask);
        high = _mm256_and_si256(_mm256_srli_epi16(x, 4), mask);
    }
#ifdef __AVXVNNI__
    static Ints dot(Ints sum, Bytes w, Broadcast x) { return _mm256_dpbusd_avx_epi32(sum, w, x); }
    static Ints dot_small(Ints sum, Bytes w, Broadcast x) { return _mm256_dpbusd_avx_epi32(sum, w, x); }
#else
    // Products of bytes are added in pairs into 16 bits with saturation: 2 * 15 * 127 fits, 2 * 255 * 127 does not.
    static Ints dot_small(Ints sum, Bytes w, Broadcast x) {
        __m256i pairs = _mm256_maddubs_epi16(w, x);
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    static Ints dot(Ints sum, Bytes w, Broadcast x) {
        const __m256i low = _mm256_set1_epi16(255);
        __m256i even = _mm256_madd_epi16(_mm256_and_si256(w, low), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
        __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(w, 8), _mm256_srai_epi16(x, 8));
        return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
    }
#endif
    static Floats byte(Bytes x, int i) {
        return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x, 8 * i), _mm256_set1_epi32(255)));
    }
};

}  // namespace
}  // namespace polyllama
