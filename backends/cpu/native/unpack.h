// From a matrix's storage to floats [K][16], for products in float32 and on machines without a product of bf16 pairs.
#pragma once

#include "elementwise.h"

namespace polyllama {
namespace {

constexpr size_t kParts = kPanel / kLanes;  // registers of a panel

// Ask for memory that is needed later. It may lie beyond what is there, so it is an address and no pointer.
inline void ask_for(const void* p, size_t ahead) {
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(p) + ahead));
}

inline Floats load_as(Element e, const void* p, size_t index) {
    switch (e) {
        case Element::f32: return Vector::load(static_cast<const float*>(p) + index);
        case Element::bf16: return Vector::load_bf16(static_cast<const uint16_t*>(p) + index);
        case Element::f16: return Vector::load_f16(static_cast<const uint16_t*>(p) + index);
        default: return Vector::load_i8(static_cast<const int8_t*>(p) + index);
    }
}

// Scales and biases of group `index` of a panel as floats [2][16].
inline void unpack_scales(const Matrix& m, const uint8_t* group, float* out) {
    const uint8_t* scales = group + group_values_bytes(m.format, m.group);
    for (size_t i = 0; i < 2 * kPanel; i += kLanes) Vector::store(out + i, load_as(m.scale, scales, i));
}

inline void unpack_group_floats(const Matrix& m, const uint8_t* group, float* out) {
    float scales[2 * kPanel];
    unpack_scales(m, group, scales);
    const bool nibbles = m.format == Format::q4;
    for (size_t part = 0; part < kParts; ++part) {
        const Floats scale = Vector::load(scales + part * kLanes), bias = Vector::load(scales + kPanel + part * kLanes);
        for (size_t k = 0; k < m.group; k += nibbles ? 8 : 4) {
            Vector::Bytes values[2];
            const uint8_t* at = group + (nibbles ? k / 2 : k) * kPanel + part * 4 * kLanes;
            if (nibbles) {
                Vector::split(Vector::load_bytes(at), values[0], values[1]);
            } else {
                values[0] = Vector::load_bytes(at);
            }
            for (size_t half = 0; half < (nibbles ? 2u : 1u); ++half) {
                for (int i = 0; i < 4; ++i) {
                    const Floats w = Vector::fma(Vector::byte(values[half], i), scale, bias);
                    Vector::store(out + (k + 4 * half + static_cast<size_t>(i)) * kPanel + part * kLanes, w);
                }
            }
        }
    }
}

// Inputs [k, k + n) of a panel as floats [n][16]; n is at most kFloatInputs, k a multiple of it.
inline const float* unpack_floats(const Matrix& m, const uint8_t* panel, size_t k, size_t n, float* out) {
    switch (m.format) {
        case Format::f32: return reinterpret_cast<const float*>(panel) + k * kPanel;
        case Format::f16:
            for (size_t i = 0; i < n * kPanel; i += kLanes) {
                Vector::store(out + i, load_as(Element::f16, panel, k * kPanel + i));
            }
            return out;
        case Format::bf16:
            for (size_t i = 0; i < n; i += 2) {
                for (size_t part = 0; part < kParts; ++part) {
                    Floats even, odd;
                    const uint16_t* pairs = reinterpret_cast<const uint16_t*>(panel);
                    Vector::load_pairs(pairs + (k + i) * kPanel + part * 2 * kLanes, even, odd);
                    Vector::store(out + i * kPanel + part * kLanes, even);
                    if (i + 1 < n) Vector::store(out + (i + 1) * kPanel + part * kLanes, odd);
                }
            }
            return out;
        default:
            for (size_t i = 0; i < n; i += m.group) {
                unpack_group_floats(m, panel + (k + i) / m.group * m.bytes_group, out + i * kPanel);
            }
            return out;
    }
}

}  // namespace
}  // namespace polyllama
