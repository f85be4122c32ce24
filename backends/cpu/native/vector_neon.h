// 128-bit registers of 64-bit ARM: a panel of 16 output rows is four of them. Needs the dot product instructions; the
// mixed-sign ones (i8mm) and bf16 where they are there.
#pragma once

#include <arm_neon.h>

#include "formats.h"

namespace polyllama {
namespace {

struct Vector {
    using Floats = float32x4_t;
    using Ints = int32x4_t;
    using Bytes = uint8x16_t;
    using Broadcast = int8x16_t;
    static constexpr size_t lanes = 4;
    // 32 registers: 24 accumulators of floats; 12 of integers beside the 12 floats they end up in.
    static constexpr size_t float_rows = 6, float_panels = 1;
    static constexpr size_t pair_rows = 6;
    static constexpr size_t int_rows = 3, int_panels = 1, single_rows = 3;
    static constexpr size_t attention_rows = 8;
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
    static constexpr bool bf16_dot = true;
#else
    static constexpr bool bf16_dot = false;
#endif

    static Floats zero() { return vdupq_n_f32(0.0f); }
    static Floats set1(float x) { return vdupq_n_f32(x); }
    static Floats load(const float* p) { return vld1q_f32(p); }
    static void store(float* p, Floats x) { vst1q_f32(p, x); }
    static Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
    static Floats sub(Floats a, Floats b) { return vsubq_f32(a, b); }
    static Floats mul(Floats a, Floats b) { return vmulq_f32(a, b); }
    static Floats div(Floats a, Floats b) { return vdivq_f32(a, b); }
    static Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
    static Floats max(Floats a, Floats b) { return vmaxq_f32(a, b); }
    static Floats min(Floats a, Floats b) { return vminq_f32(a, b); }
    static Floats abs(Floats a) { return vabsq_f32(a); }
    static float sum(Floats a) { return vaddvq_f32(a); }
    static float largest(Floats a) { return vmaxvq_f32(a); }
    static Ints nearest(Floats a) { return vcvtnq_s32_f32(a); }
    static Floats to_floats(Ints a) { return vcvtq_f32_s32(a); }
    static Floats power_of_two(Ints n) {
        return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
    }

    static Floats load_bf16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
    static void store_bf16(uint16_t* p, Floats x) {
        uint32x4_t bits = vreinterpretq_u32_f32(x);
        uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        bits = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        uint16x4_t halves = vshrn_n_u32(bits, 16);
        vst1_u16(p, vbsl_u16(vmovn_u32(vceqq_f32(x, x)), halves, vdup_n_u16(kNotANumber)));
    }
    static Floats load_f16(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
    static void store_f16(uint16_t* p, Floats x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
    static Floats load_i8(const int8_t* p) {
        int32_t four;
        __builtin_memcpy(&four, p, 4);
        int8x8_t bytes = vreinterpret_s8_s32(vdup_n_s32(four));
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
    }
    static void store_i8(int8_t* p, Ints x) {
        int16x4_t halves = vqmovn_s32(x);
        int8x8_t bytes = vqmovn_s16(vcombine_s16(halves, halves));
        int32_t four = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
        __builtin_memcpy(p, &four, 4);
    }
    static void load_pairs(const uint16_t* p, Floats& even, Floats& odd) {
        uint32x4_t pairs = vreinterpretq_u32_u16(vld1q_u16(p));
        even = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
        odd = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000u)));
    }
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
    static Floats dot_bf16(Floats sum, const uint16_t* w, const uint16_t* x) {
        int32_t pair;
        __builtin_memcpy(&pair, x, 4);
        bfloat16x8_t pairs = vreinterpretq_bf16_s32(vdupq_n_s32(pair));
        return vbfdotq_f32(sum, vreinterpretq_bf16_u16(vld1q_u16(w)), pairs);
    }
#endif

    static Ints int_zero() { return vdupq_n_s32(0); }
    static Ints int_add(Ints a, Ints b) { return vaddq_s32(a, b); }
    static Bytes load_bytes(const uint8_t* p) { return vld1q_u8(p); }
    static void store_bytes(uint8_t* p, Bytes x) { vst1q_u8(p, x); }
    static Broadcast broadcast4(const int8_t* p) {
        int32_t four;
        __builtin_memcpy(&four, p, 4);
        return vreinterpretq_s8_s32(vdupq_n_s32(four));
    }
    static void split(Bytes x, Bytes& low, Bytes& high) {
        low = vandq_u8(x, vdupq_n_u8(15));
        high = vshrq_n_u8(x, 4);
    }
    static Ints dot_small(Ints sum, Bytes w, Broadcast x) { return vdotq_s32(sum, vreinterpretq_s8_u8(w), x); }
#ifdef __ARM_FEATURE_MATMUL_INT8
    static Ints dot(Ints sum, Bytes w, Broadcast x) { return vusdotq_s32(sum, w, x); }
#else
    // Both operands are signed here: w - 128 fits, and 128 times the inputs is added back as twice 64 times them.
    static Ints dot(Ints sum, Bytes w, Broadcast x) {
        const int8x16_t sixty_four = vdupq_n_s8(64);
        sum = vdotq_s32(sum, vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(0x80))), x);
        return vdotq_s32(vdotq_s32(sum, sixty_four, x), sixty_four, x);
    }
#endif
    static Floats byte(Bytes x, int i) {
        uint32x4_t shifted = vshlq_u32(vreinterpretq_u32_u8(x), vdupq_n_s32(-8 * i));
        return vcvtq_f32_u32(vandq_u32(shifted, vdupq_n_u32(255)));
    }
};

}  // namespace
}  // namespace polyllama
