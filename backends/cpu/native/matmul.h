// Several rows of inputs: a tile of weights is unpacked once into the first-level cache, and blocks of rows pass by it
// with their sums in registers.
#pragma once

#include "matvec.h"

namespace polyllama {
namespace {

// What a tile adds to: rows of y.
struct Output {
    float* at;
    size_t stride;
};

// Weights of `Panels` panels times `Rows` rows, over n inputs.
template <size_t Rows, size_t Panels>
void tile_floats(const float* const* w, size_t n, const float* x, size_t x_stride, Output y) {
    Floats sums[Rows][Panels][kParts];
#pragma GCC unroll 16
    for (size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
            for (size_t i = 0; i < kParts; ++i) sums[r][p][i] = Vector::zero();
    for (size_t k = 0; k < n; ++k) {
        Floats weights[Panels][kParts];
#pragma GCC unroll 16
        for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
            for (size_t i = 0; i < kParts; ++i) weights[p][i] = Vector::load(w[p] + k * kPanel + i * kLanes);
#pragma GCC unroll 16
        for (size_t r = 0; r < Rows; ++r) {
            const Floats input = Vector::set1(x[r * x_stride + k]);
#pragma GCC unroll 16
            for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
                for (size_t i = 0; i < kParts; ++i)
                    sums[r][p][i] = Vector::fma(weights[p][i], input, sums[r][p][i]);
        }
    }
#pragma GCC unroll 16
    for (size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
            for (size_t i = 0; i < kParts; ++i) {
                float* at = y.at + r * y.stride + p * kPanel + i * kLanes;
                Vector::store(at, Vector::add(Vector::load(at), sums[r][p][i]));
            }
}

// The same in pairs of bf16, over n pairs.
template <class V, size_t Rows, size_t Panels>
void tile_pairs(const uint16_t* const* w, size_t n, const uint16_t* x, size_t x_stride, Output y) {
    Floats sums[Rows][Panels][kParts];
#pragma GCC unroll 16
    for (size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
            for (size_t i = 0; i < kParts; ++i) sums[r][p][i] = V::zero();
    for (size_t k = 0; k < n; ++k) {
#pragma GCC unroll 16
        for (size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 16
            for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
                for (size_t i = 0; i < kParts; ++i) {
                    const uint16_t* pairs = w[p] + (k * kPanel + i * kLanes) * 2;
                    sums[r][p][i] = V::dot_bf16(sums[r][p][i], pairs, x + r * x_stride + 2 * k);
                }
    }
#pragma GCC unroll 16
    for (size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
            for (size_t i = 0; i < kParts; ++i) {
                float* at = y.at + r * y.stride + p * kPanel + i * kLanes;
                V::store(at, V::add(V::load(at), sums[r][p][i]));
            }
}

// Bytes of whole groups. Integer sums live for one group, then its scales take them into the float sums.
struct ByteTile {
    const uint8_t* values[2];
    const float* scales[2];  // [groups][2][16]
    size_t stride;           // from one group's values to the next's
    size_t group, groups;
};

template <size_t Rows, size_t Panels, bool Small>
void tile_bytes(const ByteTile& w, const Inputs& x, Output y) {
    using V = Vector;
    Floats sums[Rows][Panels][kParts];
#pragma GCC unroll 16
    for (size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
            for (size_t i = 0; i < kParts; ++i) sums[r][p][i] = V::zero();
    for (size_t g = 0; g < w.groups; ++g) {
        V::Ints whole[Rows][Panels][kParts];
#pragma GCC unroll 16
        for (size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 16
            for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
                for (size_t i = 0; i < kParts; ++i) whole[r][p][i] = V::int_zero();
        const int8_t* inputs = x.q8 + g * w.group;
        const uint8_t* values[Panels];
        for (size_t p = 0; p < Panels; ++p) values[p] = w.values[p] + g * w.stride;
        for (size_t k = 0; k < w.group; k += 4) {
            V::Bytes weights[Panels][kParts];
#pragma GCC unroll 16
            for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
                for (size_t i = 0; i < kParts; ++i) weights[p][i] = V::load_bytes(values[p] + k * kPanel + i * 4 * kLanes);
#pragma GCC unroll 16
            for (size_t r = 0; r < Rows; ++r) {
                const auto four = V::broadcast4(inputs + r * x.q8_stride + k);
#pragma GCC unroll 16
                for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
                    for (size_t i = 0; i < kParts; ++i) {
                        whole[r][p][i] = Small ? V::dot_small(whole[r][p][i], weights[p][i], four)
                                               : V::dot(whole[r][p][i], weights[p][i], four);
                    }
            }
        }
#pragma GCC unroll 16
        for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
            for (size_t i = 0; i < kParts; ++i) {
                const float* scales = w.scales[p] + g * 2 * kPanel + i * kLanes;
                const Floats scale = V::load(scales), bias = V::load(scales + kPanel);
#pragma GCC unroll 16
                for (size_t r = 0; r < Rows; ++r) {
                    const Floats scaled = V::mul(V::to_floats(whole[r][p][i]), scale);
                    const Floats row_scale = V::set1(x.scale[r * x.group_stride + g]);
                    const Floats row_sum = V::set1(x.sum[r * x.group_stride + g]);
                    sums[r][p][i] = V::fma(bias, row_sum, V::fma(scaled, row_scale, sums[r][p][i]));
                }
            }
    }
#pragma GCC unroll 16
    for (size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
            for (size_t i = 0; i < kParts; ++i) {
                float* at = y.at + r * y.stride + p * kPanel + i * kLanes;
                V::store(at, V::add(V::load(at), sums[r][p][i]));
            }
}

// Calls f.run<n>() for n from 1 to Most.
template <size_t Most, class F>
inline void with_rows(size_t n, F& f) {
    if constexpr (Most > 1) {
        if (n < Most) return with_rows<Most - 1>(n, f);
    }
    f.template run<Most>();
}

// Blocks of at most Most rows, as equal as can be: 8 rows are twice 4, not 6 and 2.
template <size_t Most, class F>
inline void over_rows(size_t rows, F& f) {
    for (size_t blocks = (rows + Most - 1) / Most; blocks; --blocks) {
        const size_t n = (rows + blocks - 1) / blocks;
        with_rows<Most>(n, f);
        f.advance(n);
        rows -= n;
    }
}

template <size_t Panels>
struct FloatRows {
    const float* const* w;
    size_t n;
    const float* x;
    size_t stride;
    Output y;
    template <size_t Rows>
    void run() { tile_floats<Rows, Panels>(w, n, x, stride, y); }
    void advance(size_t rows) { x += rows * stride, y.at += rows * y.stride; }
};

template <size_t Panels>
struct PairRows {
    const uint16_t* const* w;
    size_t n;
    const uint16_t* x;
    size_t stride;
    Output y;
    template <size_t Rows>
    void run() { tile_pairs<Vector, Rows, Panels>(w, n, x, stride, y); }
    void advance(size_t rows) { x += rows * stride, y.at += rows * y.stride; }
};

template <size_t Panels, bool Small>
struct ByteRows {
    const ByteTile& w;
    Inputs x;
    Output y;
    template <size_t Rows>
    void run() { tile_bytes<Rows, Panels, Small>(w, x, y); }
    void advance(size_t rows) {
        x.q8 += rows * x.q8_stride, x.scale += rows * x.group_stride, x.sum += rows * x.group_stride;
        y.at += rows * y.stride;
    }
};

template <size_t Panels>
void panels_times_floats(const Matrix& m, const Inputs& x, size_t rows, const uint8_t* data, Output y, float* scratch) {
    for (size_t k = 0; k < m.columns; k += kFloatInputs) {
        const size_t n = m.columns - k < kFloatInputs ? m.columns - k : kFloatInputs;
        const float* w[Panels];
        for (size_t p = 0; p < Panels; ++p) {
            w[p] = unpack_floats(m, data + p * m.bytes_panel, k, n, scratch + p * kPanel * kFloatInputs);
        }
        FloatRows<Panels> block{w, n, x.f32 + k, x.f32_stride, y};
        over_rows<Vector::float_rows>(rows, block);
    }
}

template <size_t Panels>
void panels_times_pairs(const Matrix& m, const Inputs& x, size_t rows, const uint8_t* data, Output y) {
    constexpr size_t step = 2 * kFloatInputs;
    for (size_t k = 0; k < m.columns; k += step) {
        const size_t n = m.columns - k < step ? m.columns - k : step;
        const uint16_t* w[Panels];
        for (size_t p = 0; p < Panels; ++p) {
            w[p] = reinterpret_cast<const uint16_t*>(data + p * m.bytes_panel) + k * kPanel;
        }
        PairRows<Panels> block{w, (n + 1) / 2, x.bf16 + k, x.bf16_stride, y};
        over_rows<Vector::float_rows>(rows, block);
    }
}

template <size_t Panels>
void panels_times_bytes(const Matrix& m, const Inputs& x, size_t rows, const uint8_t* data, Output y, float* scratch) {
    uint8_t* bytes = reinterpret_cast<uint8_t*>(scratch);
    float* scales = scratch + 2 * kPanel * kTileInputs / 4;
    const size_t all = m.columns / m.group, step = kTileInputs / m.group;
    for (size_t first = 0; first < all; first += step) {
        ByteTile w;
        w.group = m.group;
        w.groups = all - first < step ? all - first : step;
        w.stride = m.format == Format::q4 ? m.group * kPanel : m.bytes_group;
        for (size_t p = 0; p < Panels; ++p) {
            const uint8_t* groups = data + p * m.bytes_panel + first * m.bytes_group;
            uint8_t* unpacked = bytes + p * kPanel * kTileInputs;
            float* panel_scales = scales + p * 2 * kPanel * step;
            for (size_t g = 0; g < w.groups; ++g) {
                unpack_scales(m, groups + g * m.bytes_group, panel_scales + g * 2 * kPanel);
                if (m.format == Format::q4) unpack_nibbles(groups + g * m.bytes_group, m.group, unpacked + g * w.stride);
            }
            w.values[p] = m.format == Format::q4 ? unpacked : groups;
            w.scales[p] = panel_scales;
        }
        Inputs here = x;
        here.q8 += first * m.group, here.scale += first, here.sum += first;
        if (m.format == Format::q4) {
            ByteRows<Panels, true> block{w, here, y};
            over_rows<Vector::int_rows>(rows, block);
        } else {
            ByteRows<Panels, false> block{w, here, y};
            over_rows<Vector::int_rows>(rows, block);
        }
    }
}

template <size_t FloatPanels, size_t IntPanels>
size_t some_panels(const Matrix& m, const Inputs& x, size_t rows, const uint8_t* data, Output y, float* scratch) {
    if (m.group && x.q8) {
        panels_times_bytes<IntPanels>(m, x, rows, data, y, scratch);
        return IntPanels;
    }
    if constexpr (Vector::bf16_dot) {
        if (m.format == Format::bf16 && x.bf16) {
            panels_times_pairs<FloatPanels>(m, x, rows, data, y);
            return FloatPanels;
        }
    }
    panels_times_floats<FloatPanels>(m, x, rows, data, y, scratch);
    return FloatPanels;
}

// What the sums start from.
inline void begin(const Matrix& m, size_t rows, size_t panel, size_t panel_end, Output y, Start start) {
    if (start == Start::add && !m.bias) return;
    for (size_t r = 0; r < rows; ++r) {
        for (size_t n = panel * kPanel; n < panel_end * kPanel; n += kLanes) {
            float* at = y.at + r * y.stride + n - panel * kPanel;
            const Floats bias = m.bias ? Vector::load(m.bias + n) : Vector::zero();
            Vector::store(at, start == Start::add ? Vector::add(Vector::load(at), bias) : bias);
        }
    }
}

void matmul(const Matrix& m, const Inputs& x, size_t rows, size_t panel, size_t panel_end, float* y, size_t y_stride,
            Start start, float* scratch) {
    if (rows == 1) return matvec(m, x, panel, panel_end, y, start, scratch);
    Output out{y, y_stride};
    begin(m, rows, panel, panel_end, out, start);
    while (panel < panel_end) {
        constexpr size_t widest =
            Vector::float_panels > Vector::int_panels ? Vector::float_panels : Vector::int_panels;
        const uint8_t* data = m.data + panel * m.bytes_panel;
        const size_t done = panel_end - panel >= widest
                                ? some_panels<Vector::float_panels, Vector::int_panels>(m, x, rows, data, out, scratch)
                                : some_panels<1, 1>(m, x, rows, data, out, scratch);
        panel += done, out.at += done * kPanel;
    }
}

}  // namespace
}  // namespace polyllama
