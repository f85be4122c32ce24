#include "packing.h"

#include <cstring>
#include <vector>

namespace polyllama {
namespace {

// Where element (row, column) of a float format lies, in elements from its panel's start.
size_t float_index(Format format, size_t lane, size_t column) {
    if (format == Format::bf16) return column / 2 * 2 * kPanel + 2 * lane + column % 2;
    return column * kPanel + lane;
}

template <class T>
void pack_panel(const T* rows, Format format, size_t lanes, size_t columns, T* panel) {
    for (size_t k = 0; k < round_up(columns, format == Format::f32 ? 1 : 2); ++k) {
        for (size_t lane = 0; lane < kPanel; ++lane) {
            const bool inside = lane < lanes && k < columns;
            panel[float_index(format, lane, k)] = inside ? rows[lane * columns + k] : T{0};
        }
    }
}

template <class T>
void unpack_panel(const T* panel, Format format, size_t lanes, size_t columns, T* rows) {
    for (size_t lane = 0; lane < lanes; ++lane) {
        for (size_t k = 0; k < columns; ++k) rows[lane * columns + k] = panel[float_index(format, lane, k)];
    }
}

// Eight nibbles v0 .. v7 of a word, low end first, as bytes v_i | v_(i+4) << 4; and back.
uint32_t spread(uint32_t half) {
    half = (half | half << 8) & 0x00ff00ffu;
    return (half | half << 4) & 0x0f0f0f0fu;
}
uint32_t gather(uint32_t bytes) {
    bytes = (bytes | bytes >> 4) & 0x00ff00ffu;
    return (bytes | bytes >> 8) & 0xffffu;
}
uint32_t interleave(uint32_t word) { return spread(word & 0xffffu) | spread(word >> 16) << 4; }
uint32_t deinterleave(uint32_t bytes) { return gather(bytes & 0x0f0f0f0fu) | gather(bytes >> 4 & 0x0f0f0f0fu) << 16; }

// A row's values of a width that has no word of its own here, as words of 4 or 8 bits each.
void widen(const uint32_t* words, size_t bits, size_t columns, Format format, uint32_t* out, uint8_t* bytes) {
    read_values(words, bits, columns, bytes);
    if (format == Format::q8) {
        std::memcpy(out, bytes, columns);
        return;
    }
    for (size_t i = 0; i < columns / 8; ++i) {
        uint32_t word = 0;
        for (size_t j = 0; j < 8; ++j) word |= static_cast<uint32_t>(bytes[8 * i + j]) << (4 * j);
        out[i] = word;
    }
}

void narrow(const uint32_t* wide, Format format, size_t columns, size_t bits, uint32_t* words) {
    const size_t width = format == Format::q4 ? 4 : 8;
    std::memset(words, 0, columns * bits / 8);
    for (size_t i = 0; i < columns; ++i) {
        const uint32_t value = wide[i * width / 32] >> (i * width % 32) & ((1u << bits) - 1);
        const size_t at = i * bits, shift = at % 32;
        words[at / 32] |= value << shift;
        if (shift + bits > 32) words[at / 32 + 1] |= value >> (32 - shift);
    }
}

}  // namespace

void pack_floats(const uint8_t* rows, Format format, size_t n, size_t columns, uint8_t* panels) {
    const size_t bytes = panel_bytes(format, columns, 0, Element::f32), size = format == Format::f32 ? 4 : 2;
    for (size_t row = 0; row < n; row += kPanel, panels += bytes) {
        const size_t lanes = n - row < kPanel ? n - row : kPanel;
        const uint8_t* from = rows + row * columns * size;
        if (size == 4) {
            pack_panel(reinterpret_cast<const uint32_t*>(from), format, lanes, columns, reinterpret_cast<uint32_t*>(panels));
        } else {
            pack_panel(reinterpret_cast<const uint16_t*>(from), format, lanes, columns, reinterpret_cast<uint16_t*>(panels));
        }
    }
}

void unpack_floats(const uint8_t* panels, Format format, size_t n, size_t columns, uint8_t* rows) {
    const size_t bytes = panel_bytes(format, columns, 0, Element::f32), size = format == Format::f32 ? 4 : 2;
    for (size_t row = 0; row < n; row += kPanel, panels += bytes) {
        const size_t lanes = n - row < kPanel ? n - row : kPanel;
        uint8_t* to = rows + row * columns * size;
        if (size == 4) {
            unpack_panel(reinterpret_cast<const uint32_t*>(panels), format, lanes, columns, reinterpret_cast<uint32_t*>(to));
        } else {
            unpack_panel(reinterpret_cast<const uint16_t*>(panels), format, lanes, columns, reinterpret_cast<uint16_t*>(to));
        }
    }
}

void pack_quantized(const Packed& from, size_t bits, const Matrix& shape, uint8_t* panels) {
    const bool nibbles = shape.format == Format::q4;
    const size_t per_word = nibbles ? 8 : 4, row_words = shape.columns * bits / 32;
    const size_t groups = shape.columns / shape.group, group_words = shape.group / per_word;
    const size_t element = element_size(shape.scale), values = group_values_bytes(shape.format, shape.group);
    const bool as_is = bits == (nibbles ? 4u : 8u);
    std::vector<uint32_t> wide(as_is ? 0 : shape.columns / per_word);
    std::vector<uint8_t> bytes(as_is ? 0 : shape.columns);
    std::memset(panels, 0, shape.panels * shape.bytes_panel);
    for (size_t row = 0; row < shape.rows; ++row) {
        uint8_t* group = panels + row / kPanel * shape.bytes_panel;
        const size_t lane = row % kPanel;
        const uint32_t* words = from.words + row * row_words;
        if (!as_is) {
            widen(words, bits, shape.columns, shape.format, wide.data(), bytes.data());
            words = wide.data();
        }
        for (size_t g = 0; g < groups; ++g, group += shape.bytes_group) {
            uint32_t* to = reinterpret_cast<uint32_t*>(group);
            for (size_t i = 0; i < group_words; ++i) {
                const uint32_t word = words[g * group_words + i];
                to[i * kPanel + lane] = nibbles ? interleave(word) : word;
            }
            std::memcpy(group + values + lane * element, from.scales + (row * groups + g) * element, element);
            std::memcpy(group + values + (kPanel + lane) * element, from.biases + (row * groups + g) * element, element);
        }
    }
}

void unpack_quantized(const Matrix& m, size_t bits, uint32_t* words, uint8_t* scales, uint8_t* biases) {
    const bool nibbles = m.format == Format::q4;
    const size_t per_word = nibbles ? 8 : 4, row_words = m.columns * bits / 32;
    const size_t groups = m.columns / m.group, group_words = m.group / per_word;
    const size_t element = element_size(m.scale), values = group_values_bytes(m.format, m.group);
    std::vector<uint32_t> wide(m.columns / per_word);
    for (size_t row = 0; row < m.rows; ++row) {
        const uint8_t* group = m.data + row / kPanel * m.bytes_panel;
        const size_t lane = row % kPanel;
        for (size_t g = 0; g < groups; ++g, group += m.bytes_group) {
            const uint32_t* from = reinterpret_cast<const uint32_t*>(group);
            for (size_t i = 0; i < group_words; ++i) {
                const uint32_t word = from[i * kPanel + lane];
                wide[g * group_words + i] = nibbles ? deinterleave(word) : word;
            }
            std::memcpy(scales + (row * groups + g) * element, group + values + lane * element, element);
            std::memcpy(biases + (row * groups + g) * element, group + values + (kPanel + lane) * element, element);
        }
        narrow(wide.data(), m.format, m.columns, bits, words + row * row_words);
    }
}

void read_values(const uint32_t* words, size_t bits, size_t n, uint8_t* out) {
    const uint32_t mask = (1u << bits) - 1;
    for (size_t i = 0; i < n; ++i) {
        const size_t at = i * bits, shift = at % 32;
        uint32_t value = words[at / 32] >> shift;
        if (shift + bits > 32) value |= words[at / 32 + 1] << (32 - shift);
        out[i] = static_cast<uint8_t>(value & mask);
    }
}

float to_float(Element element, const void* data, size_t index) {
    uint32_t bits;
    float x;
    if (element == Element::f32) return static_cast<const float*>(data)[index];
    const uint16_t half = static_cast<const uint16_t*>(data)[index];
    if (element == Element::bf16) {
        bits = static_cast<uint32_t>(half) << 16;
    } else {
        const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 1023u;
        if (exponent == 0) {
            x = static_cast<float>(fraction) * 0x1p-24f;
            return sign ? -x : x;
        }
        bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
    }
    std::memcpy(&x, &bits, 4);
    return x;
}

void read_row(const Matrix& m, size_t row, float* out) {
    const uint8_t* panel = m.data + row / kPanel * m.bytes_panel;
    const size_t lane = row % kPanel;
    if (!m.group) {
        const Element element = m.format == Format::f32 ? Element::f32 : m.format == Format::bf16 ? Element::bf16 : Element::f16;
        for (size_t k = 0; k < m.columns; ++k) out[k] = to_float(element, panel, float_index(m.format, lane, k));
        return;
    }
    const bool nibbles = m.format == Format::q4;
    const size_t values = group_values_bytes(m.format, m.group);
    for (size_t k = 0; k < m.columns; k += m.group, panel += m.bytes_group) {
        const float scale = to_float(m.scale, panel + values, lane), bias = to_float(m.scale, panel + values, kPanel + lane);
        for (size_t i = 0; i < m.group; ++i) {
            const size_t at = nibbles ? (i / 8 * kPanel + lane) * 4 + i % 4 : (i / 4 * kPanel + lane) * 4 + i % 4;
            const uint32_t q = !nibbles ? panel[at] : i % 8 < 4 ? panel[at] & 15u : panel[at] >> 4;
            out[k + i] = scale * static_cast<float>(q) + bias;
        }
    }
}

}  // namespace polyllama
