// Plain C++ that compilers turn into whatever vectors the machine's baseline has.
#pragma once

#include <cmath>
#include <cstring>

#include "formats.h"

namespace polyllama {
namespace {

struct Vector {
    static constexpr size_t lanes = 4;
    struct Floats { float v[lanes]; };
    struct Ints { int32_t v[lanes]; };
    struct Bytes { uint8_t v[4 * lanes]; };
    struct Broadcast { int8_t v[4]; };
    static constexpr size_t float_rows = 2, float_panels = 1;
    static constexpr size_t pair_rows = 1;  // it has no product of pairs
    static constexpr size_t int_rows = 2, int_panels = 1, single_rows = 2;
    static constexpr size_t attention_rows = 4;
    static constexpr bool bf16_dot = false;

    template <class F>
    static Floats each(F f) {
        Floats y;
        for (size_t i = 0; i < lanes; ++i) y.v[i] = f(i);
        return y;
    }
    static float from_bits(uint32_t bits) {
        float x;
        std::memcpy(&x, &bits, 4);
        return x;
    }
    static uint32_t to_bits(float x) {
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        return bits;
    }

    static Floats zero() { return set1(0.0f); }
    static Floats set1(float x) { return each([&](size_t) { return x; }); }
    static Floats load(const float* p) { return each([&](size_t i) { return p[i]; }); }
    static void store(float* p, Floats x) { std::memcpy(p, x.v, sizeof x.v); }
    static Floats add(Floats a, Floats b) { return each([&](size_t i) { return a.v[i] + b.v[i]; }); }
    static Floats sub(Floats a, Floats b) { return each([&](size_t i) { return a.v[i] - b.v[i]; }); }
    static Floats mul(Floats a, Floats b) { return each([&](size_t i) { return a.v[i] * b.v[i]; }); }
    static Floats div(Floats a, Floats b) { return each([&](size_t i) { return a.v[i] / b.v[i]; }); }
    static Floats fma(Floats a, Floats b, Floats c) { return each([&](size_t i) { return a.v[i] * b.v[i] + c.v[i]; }); }
    static Floats max(Floats a, Floats b) { return each([&](size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
    static Floats min(Floats a, Floats b) { return each([&](size_t i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
    static Floats abs(Floats a) { return each([&](size_t i) { return a.v[i] < 0 ? -a.v[i] : a.v[i]; }); }
    static float sum(Floats a) { return (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]); }
    static float largest(Floats a) {
        float m = a.v[0];
        for (size_t i = 1; i < lanes; ++i) m = a.v[i] > m ? a.v[i] : m;
        return m;
    }
    static Ints nearest(Floats a) {
        Ints y;
        for (size_t i = 0; i < lanes; ++i) y.v[i] = static_cast<int32_t>(std::lrintf(a.v[i]));
        return y;
    }
    static Floats to_floats(Ints a) { return each([&](size_t i) { return static_cast<float>(a.v[i]); }); }
    static Floats power_of_two(Ints n) {
        return each([&](size_t i) { return from_bits(static_cast<uint32_t>(n.v[i] + 127) << 23); });
    }

    static float half_to_float(uint16_t h) {
        uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u;
        if (exponent == 31) return from_bits(sign | 0x7f800000u | (fraction << 13));
        if (exponent) return from_bits(sign | ((exponent + 112) << 23) | (fraction << 13));
        float x = static_cast<float>(fraction) * 0x1p-24f;  // subnormal, exact in float
        return from_bits(to_bits(x) | sign);
    }
    static uint16_t float_to_half(float x) {
        uint32_t bits = to_bits(x), sign = (bits >> 16) & 0x8000u, size = bits & 0x7fffffffu;
        if (size >= 0x7f800000u) return static_cast<uint16_t>(sign | 0x7c00u | (size > 0x7f800000u ? 0x200u : 0));
        if (size >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds beyond 65504
        if (size < 0x38800000u) {  // subnormal: counted in units of 2^-24
            return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::lrintf(from_bits(size) * 0x1p24f)));
        }
        size += 0xfffu + ((size >> 13) & 1u);
        return static_cast<uint16_t>(sign | ((size - 0x38000000u) >> 13));
    }

    static Floats load_bf16(const uint16_t* p) {
        return each([&](size_t i) { return from_bits(static_cast<uint32_t>(p[i]) << 16); });
    }
    static void store_bf16(uint16_t* p, Floats x) {
        for (size_t i = 0; i < lanes; ++i) {
            uint32_t bits = to_bits(x.v[i]);
            p[i] = static_cast<uint16_t>(x.v[i] != x.v[i] ? kNotANumber : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
        }
    }
    static Floats load_f16(const uint16_t* p) { return each([&](size_t i) { return half_to_float(p[i]); }); }
    static void store_f16(uint16_t* p, Floats x) {
        for (size_t i = 0; i < lanes; ++i) p[i] = float_to_half(x.v[i]);
    }
    static Floats load_i8(const int8_t* p) { return each([&](size_t i) { return static_cast<float>(p[i]); }); }
    static void store_i8(int8_t* p, Ints x) {
        for (size_t i = 0; i < lanes; ++i) p[i] = static_cast<int8_t>(x.v[i]);
    }
    static void load_pairs(const uint16_t* p, Floats& even, Floats& odd) {
        for (size_t i = 0; i < lanes; ++i) {
            even.v[i] = from_bits(static_cast<uint32_t>(p[2 * i]) << 16);
            odd.v[i] = from_bits(static_cast<uint32_t>(p[2 * i + 1]) << 16);
        }
    }

    static Ints int_zero() { return Ints{}; }
    static Ints int_add(Ints a, Ints b) {
        for (size_t i = 0; i < lanes; ++i) a.v[i] += b.v[i];
        return a;
    }
    static Bytes load_bytes(const uint8_t* p) {
        Bytes x;
        std::memcpy(x.v, p, sizeof x.v);
        return x;
    }
    static void store_bytes(uint8_t* p, Bytes x) { std::memcpy(p, x.v, sizeof x.v); }
    static Broadcast broadcast4(const int8_t* p) {
        Broadcast x;
        std::memcpy(x.v, p, 4);
        return x;
    }
    static void split(Bytes x, Bytes& low, Bytes& high) {
        for (size_t i = 0; i < 4 * lanes; ++i) {
            low.v[i] = x.v[i] & 15;
            high.v[i] = static_cast<uint8_t>(x.v[i] >> 4);
        }
    }
    static Ints dot(Ints sum, Bytes w, Broadcast x) {
        for (size_t i = 0; i < lanes; ++i)
            for (size_t j = 0; j < 4; ++j) sum.v[i] += static_cast<int32_t>(w.v[4 * i + j]) * x.v[j];
        return sum;
    }
    static Ints dot_small(Ints sum, Bytes w, Broadcast x) { return dot(sum, w, x); }
    static Floats byte(Bytes x, int j) {
        return each([&](size_t i) { return static_cast<float>(x.v[4 * i + static_cast<size_t>(j)]); });
    }
};

}  // namespace
}  // namespace polyllama
