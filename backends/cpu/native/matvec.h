// One row of inputs: the matrix streams through once, and memory is what it waits for. Processors foresee so plain a
// stream by themselves: asking for lines ahead of time made it slower.
#pragma once

#include "unpack.h"

namespace polyllama {
namespace {

struct PanelSums {
    Floats part[kParts];
};

inline PanelSums zero_sums() {
    PanelSums y;
    for (size_t p = 0; p < kParts; ++p) y.part[p] = Vector::zero();
    return y;
}

inline PanelSums add_sums(PanelSums a, const PanelSums& b) {
    for (size_t p = 0; p < kParts; ++p) a.part[p] = Vector::add(a.part[p], b.part[p]);
    return a;
}

// Panels of floats that a thread reads side by side, each a stream of its own, which keeps more lines on their way. Packed
// ones take more work for each line, and reading four of them at once made that slower than it made reading faster.
constexpr size_t kStreams = kParts == 1 ? 4 : 2;
constexpr size_t kUnroll = kParts <= 2 ? 2 : 1;

// Several sums side by side hide the latency of the additions. What is added to what does not depend on how many panels
// there are.
template <size_t Panels, class Step>
inline void unrolled(size_t n, PanelSums* y, Step step) {
    PanelSums sums[Panels][kUnroll];
    for (size_t s = 0; s < Panels; ++s) {
        for (size_t u = 0; u < kUnroll; ++u) sums[s][u] = zero_sums();
    }
    size_t i = 0;
    for (; i + kUnroll <= n; i += kUnroll) {
#pragma GCC unroll 8
        for (size_t s = 0; s < Panels; ++s) {
#pragma GCC unroll 8
            for (size_t u = 0; u < kUnroll; ++u) step(s, i + u, sums[s][u]);
        }
    }
    for (size_t s = 0; s < Panels; ++s) {
        for (size_t k = i; k < n; ++k) step(s, k, sums[s][0]);
        for (size_t u = 0; u < kUnroll; ++u) y[s] = add_sums(y[s], sums[s][u]);
    }
}

template <size_t Panels>
inline void floats_times_row(const float* const* w, size_t n, const float* x, PanelSums* y) {
    unrolled<Panels>(n, y, [&](size_t s, size_t k, PanelSums& sum) {
        const Floats input = Vector::set1(x[k]);
        for (size_t p = 0; p < kParts; ++p) {
            sum.part[p] = Vector::fma(Vector::load(w[s] + k * kPanel + p * kLanes), input, sum.part[p]);
        }
    });
}

template <size_t Panels>
inline void halves_times_row(const uint16_t* const* w, size_t n, const float* x, PanelSums* y) {
    unrolled<Panels>(n, y, [&](size_t s, size_t k, PanelSums& sum) {
        const Floats input = Vector::set1(x[k]);
        for (size_t p = 0; p < kParts; ++p) {
            sum.part[p] = Vector::fma(Vector::load_f16(w[s] + k * kPanel + p * kLanes), input, sum.part[p]);
        }
    });
}

template <size_t Panels>
inline void pairs_times_row(const uint16_t* const* w, size_t n, const float* x, PanelSums* y) {
    unrolled<Panels>((n + 1) / 2, y, [&](size_t s, size_t k, PanelSums& sum) {
        const Floats first = Vector::set1(x[2 * k]), second = Vector::set1(2 * k + 1 < n ? x[2 * k + 1] : 0.0f);
        for (size_t p = 0; p < kParts; ++p) {
            Floats even, odd;
            Vector::load_pairs(w[s] + 2 * k * kPanel + 2 * p * kLanes, even, odd);
            sum.part[p] = Vector::fma(odd, second, Vector::fma(even, first, sum.part[p]));
        }
    });
}

template <size_t Panels, class V>
inline void pairs_times_pairs(const uint16_t* const* w, size_t n, const uint16_t* x, PanelSums* y) {
    unrolled<Panels>((n + 1) / 2, y, [&](size_t s, size_t k, PanelSums& sum) {
        for (size_t p = 0; p < kParts; ++p) {
            sum.part[p] = V::dot_bf16(sum.part[p], w[s] + 2 * k * kPanel + 2 * p * kLanes, x + 2 * k);
        }
    });
}

// A group's integer sums, scaled: s_w s_x sum(q_w q_x) + bias_w sum(x).
template <Element Scale>
inline void add_group(PanelSums& y, const Vector::Ints* sums, const uint8_t* scales, float scale, float sum) {
    for (size_t p = 0; p < kParts; ++p) {
        const Floats s = load_as(Scale, scales, p * kLanes), b = load_as(Scale, scales, kPanel + p * kLanes);
        y.part[p] = Vector::fma(Vector::to_floats(sums[p]), Vector::mul(s, Vector::set1(scale)), y.part[p]);
        y.part[p] = Vector::fma(b, Vector::set1(sum), y.part[p]);
    }
}

template <Format F, size_t Group, Element Scale>
PanelSums bytes_times_row(const Matrix& m, const uint8_t* group, const int8_t* x, const float* scale, const float* sum) {
    using V = Vector;
    constexpr size_t step = F == Format::q4 ? 8 : 4;  // inputs of a line
    constexpr size_t values = Group * kPanel / (F == Format::q4 ? 2 : 1);
    constexpr size_t bytes = values + 2 * kPanel * (Scale == Element::f32 ? 4 : 2);
    PanelSums y = zero_sums();
    const size_t groups = m.columns / Group;
    for (size_t g = 0; g < groups; ++g, group += bytes, x += Group) {
        V::Ints low[kParts], high[kParts];
        for (size_t p = 0; p < kParts; ++p) low[p] = high[p] = V::int_zero();
#pragma GCC unroll 16
        for (size_t k = 0; k < Group; k += step) {
            const uint8_t* at = group + k / step * kLine;
            if constexpr (F == Format::q4) {
                const auto first = V::broadcast4(x + k), second = V::broadcast4(x + k + 4);
                for (size_t p = 0; p < kParts; ++p) {
                    V::Bytes a, b;
                    V::split(V::load_bytes(at + p * 4 * kLanes), a, b);
                    low[p] = V::dot_small(low[p], a, first);
                    high[p] = V::dot_small(high[p], b, second);
                }
            } else {
                const auto inputs = V::broadcast4(x + k);
                for (size_t p = 0; p < kParts; ++p) {
                    auto& sums = k / step % 2 ? high[p] : low[p];
                    sums = V::dot(sums, V::load_bytes(at + p * 4 * kLanes), inputs);
                }
            }
        }
        for (size_t p = 0; p < kParts; ++p) low[p] = V::int_add(low[p], high[p]);
        add_group<Scale>(y, low, group + values, scale[g], sum[g]);
    }
    return y;
}

using BytesTimesRow = PanelSums (*)(const Matrix&, const uint8_t*, const int8_t*, const float*, const float*);

template <Format F, size_t Group>
BytesTimesRow by_scale(Element e) {
    return e == Element::f32    ? bytes_times_row<F, Group, Element::f32>
           : e == Element::bf16 ? bytes_times_row<F, Group, Element::bf16>
                                : bytes_times_row<F, Group, Element::f16>;
}

template <Format F>
BytesTimesRow by_group(const Matrix& m) {
    return m.group == 32 ? by_scale<F, 32>(m.scale) : m.group == 64 ? by_scale<F, 64>(m.scale) : by_scale<F, 128>(m.scale);
}

// Panels of floats; packed ones too, where their inputs are floats.
template <size_t Panels>
void float_panels_times_row(const Matrix& m, const Inputs& x, const uint8_t* data, PanelSums* y, float* scratch) {
    const float* floats[Panels];
    const uint16_t* halves[Panels];
    for (size_t s = 0; s < Panels; ++s) {
        floats[s] = reinterpret_cast<const float*>(data + s * m.bytes_panel);
        halves[s] = reinterpret_cast<const uint16_t*>(data + s * m.bytes_panel);
    }
    switch (m.format) {
        case Format::f32: return floats_times_row<Panels>(floats, m.columns, x.f32, y);
        case Format::f16: return halves_times_row<Panels>(halves, m.columns, x.f32, y);
        case Format::bf16:
            if constexpr (Vector::bf16_dot) {
                if (x.bf16) return pairs_times_pairs<Panels, Vector>(halves, m.columns, x.bf16, y);
            }
            return pairs_times_row<Panels>(halves, m.columns, x.f32, y);
        default: break;
    }
    for (size_t s = 0; s < Panels; ++s) {
        for (size_t k = 0; k < m.columns; k += kFloatInputs) {
            const size_t n = m.columns - k < kFloatInputs ? m.columns - k : kFloatInputs;
            const float* w = unpack_floats(m, data + s * m.bytes_panel, k, n, scratch);
            floats_times_row<1>(&w, n, x.f32 + k, y + s);
        }
    }
}

inline void store_sums(const Matrix& m, const PanelSums& sums, size_t panel, float* y, Start start) {
    for (size_t p = 0; p < kParts; ++p) {
        Floats out = sums.part[p];
        if (m.bias) out = Vector::add(out, Vector::load(m.bias + panel * kPanel + p * kLanes));
        if (start == Start::add) out = Vector::add(out, Vector::load(y + p * kLanes));
        Vector::store(y + p * kLanes, out);
    }
}

template <size_t Panels>
void float_panels(const Matrix& m, const Inputs& x, size_t panel, float* y, Start start, float* scratch) {
    PanelSums sums[Panels];
    for (PanelSums& sum : sums) sum = zero_sums();
    float_panels_times_row<Panels>(m, x, m.data + panel * m.bytes_panel, sums, scratch);
    for (size_t s = 0; s < Panels; ++s) store_sums(m, sums[s], panel + s, y + s * kPanel, start);
}

void matvec(const Matrix& m, const Inputs& x, size_t panel, size_t panel_end, float* y, Start start, float* scratch) {
    if (x.q8 && m.group) {
        const BytesTimesRow times = m.format == Format::q4 ? by_group<Format::q4>(m) : by_group<Format::q8>(m);
        for (; panel < panel_end; ++panel, y += kPanel) {
            store_sums(m, times(m, m.data + panel * m.bytes_panel, x.q8, x.scale, x.sum), panel, y, start);
        }
        return;
    }
    for (; panel + kStreams <= panel_end; panel += kStreams, y += kStreams * kPanel) {
        float_panels<kStreams>(m, x, panel, y, start, scratch);
    }
    for (; panel < panel_end; ++panel, y += kPanel) float_panels<1>(m, x, panel, y, start, scratch);
}

}  // namespace
}  // namespace polyllama
