// Several rows of inputs: a tile of weights stays in the first-level cache while blocks of rows pass by it with their
// sums in registers.
#pragma once

#include "matvec.h"

namespace polyllama {
namespace {

// What a tile adds to: rows of y.
struct Output {
    float* at;
    size_t stride;
};

// Sums of `Rows` rows and `Panels` panels, in registers.
template <size_t Rows, size_t Panels>
using TileSums = Floats[Rows][Panels][kParts];

template <size_t Rows, size_t Panels>
inline void clear_sums(TileSums<Rows, Panels>& sums) {
#pragma GCC unroll 16
    for (size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
            for (size_t i = 0; i < kParts; ++i) sums[r][p][i] = Vector::zero();
}

template <size_t Rows, size_t Panels>
inline void add_to(Output y, const TileSums<Rows, Panels>& sums) {
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

// Weights of `Panels` panels times `Rows` rows, over n inputs.
template <size_t Rows, size_t Panels>
void tile_floats(const float* const* w, size_t n, const float* x, size_t x_stride, Output y) {
    TileSums<Rows, Panels> sums;
    clear_sums<Rows, Panels>(sums);
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
    add_to<Rows, Panels>(y, sums);
}

// The same in pairs of bf16, over n pairs.
template <class V, size_t Rows, size_t Panels>
void tile_pairs(const uint16_t* const* w, size_t n, const uint16_t* x, size_t x_stride, Output y) {
    TileSums<Rows, Panels> sums;
    clear_sums<Rows, Panels>(sums);
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
    add_to<Rows, Panels>(y, sums);
}

// Bytes that are asked for before they are needed. Rows make a line last longer than processors look ahead; a single
// row is faster without.
constexpr size_t kAhead = 2048;

// Whole groups of packed weights, read where they lie: their integer sums live for one group, then its scales take them
// into the float sums.
struct PackedTile {
    const Matrix& m;
    const uint8_t* groups;  // the first group of the first panel
    size_t count;
};

template <Format F, size_t Rows, size_t Panels>
void tile_packed(const PackedTile& w, const Inputs& x, Output y) {
    using V = Vector;
    constexpr size_t step = F == Format::q4 ? 8 : 4;  // inputs of a line
    TileSums<Rows, Panels> sums;
    clear_sums<Rows, Panels>(sums);
    const size_t group = w.m.group, values = group_values_bytes(F, group);
    const int8_t* inputs = x.q8;
    const uint8_t* at = w.groups;
    for (size_t g = 0; g < w.count; ++g, inputs += group, at += w.m.bytes_group) {
        V::Ints whole[Rows][Panels][kParts];
#pragma GCC unroll 16
        for (size_t r = 0; r < Rows; ++r)
#pragma GCC unroll 16
            for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
                for (size_t i = 0; i < kParts; ++i) whole[r][p][i] = V::int_zero();
        for (size_t k = 0; k < group; k += step) {
            V::Bytes first[Panels][kParts], second[Panels][kParts];
#pragma GCC unroll 16
            for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
                for (size_t i = 0; i < kParts; ++i) {
                    const uint8_t* line = at + p * w.m.bytes_panel + k / step * kLine + i * 4 * kLanes;
                    if (i == 0) ask_for(line, kAhead);
                    first[p][i] = V::load_bytes(line);
                    if constexpr (F == Format::q4) V::split(first[p][i], first[p][i], second[p][i]);
                }
#pragma GCC unroll 16
            for (size_t r = 0; r < Rows; ++r) {
                const auto four = V::broadcast4(inputs + r * x.q8_stride + k);
#pragma GCC unroll 16
                for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
                    for (size_t i = 0; i < kParts; ++i) {
                        whole[r][p][i] = F == Format::q4 ? V::dot_small(whole[r][p][i], first[p][i], four)
                                                         : V::dot(whole[r][p][i], first[p][i], four);
                    }
                if constexpr (F == Format::q4) {
                    const auto other = V::broadcast4(inputs + r * x.q8_stride + k + 4);
#pragma GCC unroll 16
                    for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
                        for (size_t i = 0; i < kParts; ++i) {
                            whole[r][p][i] = V::dot_small(whole[r][p][i], second[p][i], other);
                        }
                }
            }
        }
#pragma GCC unroll 16
        for (size_t p = 0; p < Panels; ++p)
#pragma GCC unroll 16
            for (size_t i = 0; i < kParts; ++i) {
                const uint8_t* scales = at + p * w.m.bytes_panel + values;
                const Floats scale = load_as(w.m.scale, scales, i * kLanes);
                const Floats bias = load_as(w.m.scale, scales, kPanel + i * kLanes);
#pragma GCC unroll 16
                for (size_t r = 0; r < Rows; ++r) {
                    const Floats scaled = V::mul(V::to_floats(whole[r][p][i]), scale);
                    const Floats row_scale = V::set1(x.scale[r * x.group_stride + g]);
                    const Floats row_sum = V::set1(x.sum[r * x.group_stride + g]);
                    sums[r][p][i] = V::fma(bias, row_sum, V::fma(scaled, row_scale, sums[r][p][i]));
                }
            }
    }
    add_to<Rows, Panels>(y, sums);
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

template <Format F, size_t Panels>
struct PackedRows {
    PackedTile w;
    Inputs x;
    Output y;
    template <size_t Rows>
    void run() { tile_packed<F, Rows, Panels>(w, x, y); }
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
        over_rows<Vector::pair_rows>(rows, block);
    }
}

// A block of `Most` rows at a time goes by; of more than one block, so many groups that they stay in the first-level
// cache meanwhile.
template <Format F, size_t Most, size_t Panels>
void panels_times_packed(const Matrix& m, const Inputs& x, size_t rows, const uint8_t* data, Output y) {
    const size_t all = m.columns / m.group, step = rows <= Most ? all : kTileBytes / (Panels * m.bytes_group);
    for (size_t first = 0; first < all; first += step) {
        Inputs here = x;
        here.q8 += first * m.group, here.scale += first, here.sum += first;
        const size_t count = all - first < step ? all - first : step;
        PackedRows<F, Panels> block{{m, data + first * m.bytes_group, count}, here, y};
        over_rows<Most>(rows, block);
    }
}

template <Format F>
void matmul_packed(const Matrix& m, const Inputs& x, size_t rows, size_t panel, size_t panel_end, Output y) {
    constexpr size_t wide = Vector::int_panels;
    while (panel < panel_end) {
        const uint8_t* data = m.data + panel * m.bytes_panel;
        // Rows that fit beside a single panel pass in one go, and the matrix streams through once.
        const bool narrow = panel_end - panel < wide || rows <= Vector::single_rows;
        narrow ? panels_times_packed<F, Vector::single_rows, 1>(m, x, rows, data, y)
               : panels_times_packed<F, Vector::int_rows, wide>(m, x, rows, data, y);
        panel += narrow ? 1 : wide, y.at += (narrow ? 1 : wide) * kPanel;
    }
}

template <size_t Panels>
void panels_times_some(const Matrix& m, const Inputs& x, size_t rows, const uint8_t* data, Output y, float* scratch) {
    if constexpr (Vector::bf16_dot) {
        if (m.format == Format::bf16 && x.bf16) return panels_times_pairs<Panels>(m, x, rows, data, y);
    }
    panels_times_floats<Panels>(m, x, rows, data, y, scratch);
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
    if (m.group && x.q8) {
        return m.format == Format::q4 ? matmul_packed<Format::q4>(m, x, rows, panel, panel_end, out)
                                      : matmul_packed<Format::q8>(m, x, rows, panel, panel_end, out);
    }
    constexpr size_t wide = Vector::float_panels;
    while (panel < panel_end) {
        const bool narrow = panel_end - panel < wide;
        const uint8_t* data = m.data + panel * m.bytes_panel;
        narrow ? panels_times_some<1>(m, x, rows, data, out, scratch)
               : panels_times_some<wide>(m, x, rows, data, out, scratch);
        panel += narrow ? 1 : wide, out.at += (narrow ? 1 : wide) * kPanel;
    }
}

}  // namespace
}  // namespace polyllama
