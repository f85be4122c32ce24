// Every kernel of one instruction set beside the portable ones, on sizes that do not fit registers. Stands alone, so that
// it can be compiled for another processor and run there or under an emulator:
//
//   for each of portable and POLYLLAMA_TESTED: c++ -std=c++20 -DPOLYLLAMA_ISA=... FLAGS -c backends/cpu/native/kernels.cpp
//   c++ -std=c++20 -DPOLYLLAMA_TESTED=neon tests/backends/cpu/native/compare_kernels.cpp packing.cpp kernels_*.o
//
// Says what differs and exits with 1, or says how many comparisons were equal.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "../../../../backends/cpu/native/formats.h"
#include "../../../../backends/cpu/native/packing.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

using namespace polyllama;

namespace {

const Kernels& tested = *JOIN(kernels_, POLYLLAMA_TESTED)();
const Kernels& known = *kernels_portable();
int compared = 0, wrong = 0;

struct Random {
    uint64_t state = 0x9e3779b97f4a7c15ull;
    uint32_t word() {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return static_cast<uint32_t>(state >> 32);
    }
    float value() { return static_cast<float>(static_cast<int32_t>(word())) * 0x1p-31f; }
    std::vector<float> values(size_t n, float size = 1) {
        std::vector<float> found(n);
        for (float& x : found) x = size * value();
        return found;
    }
} rng;

// Memory that begins on a cache line and ends where it says, so that sanitizers see what reads beyond.
template <class T>
struct Lines {
    T* data;
    size_t size;
    explicit Lines(size_t n) : size(n) {
        data = static_cast<T*>(std::aligned_alloc(kLine, round_up(n * sizeof(T) + 1, kLine)));
        std::memset(static_cast<void*>(data), 0, n * sizeof(T));
    }
    Lines(const Lines&) = delete;
    ~Lines() { std::free(data); }
};

void check(const std::string& what, const float* a, const float* b, size_t n, float tolerance) {
    float top = 0, off = 0;
    bool finite = true;
    for (size_t i = 0; i < n; ++i) {
        top = std::max(top, std::fabs(b[i]));
        off = std::max(off, std::fabs(a[i] - b[i]));
        finite = finite && std::isfinite(a[i]);
    }
    ++compared;
    if (finite && off <= tolerance * std::max(top, 1e-20f)) return;
    ++wrong;
    std::printf("%s: off by %g of %g\n", what.c_str(), static_cast<double>(off), static_cast<double>(top));
}

void check_bytes(const std::string& what, const void* a, const void* b, size_t n) {
    ++compared;
    if (std::memcmp(a, b, n) == 0) return;
    ++wrong;
    std::printf("%s: bytes differ\n", what.c_str());
}

const char* const formats[] = {"float32", "bfloat16", "float16", "q4", "q8"};
const char* const elements[] = {"float32", "bfloat16", "float16", "int8"};

uint16_t half_of(float x, Element e) {
    Lines<uint16_t> halves(1);
    // The portable store is one of the things that are compared; here an exact small number is wanted, so 2^-k serves.
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (e == Element::bf16) return static_cast<uint16_t>(bits >> 16);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const int exponent = static_cast<int>(bits >> 23 & 255u) - 112;
    if (exponent <= 0) return static_cast<uint16_t>(sign);
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(exponent) << 10 | (bits >> 13 & 1023u));
}

Matrix make(Format format, size_t rows, size_t columns, size_t group, Element scale) {
    Matrix m{};
    m.format = format, m.scale = scale, m.rows = rows, m.columns = columns, m.panels = (rows + kPanel - 1) / kPanel;
    m.group = group;
    m.bytes_group = group ? group_bytes(format, group, scale) : 0;
    m.bytes_panel = panel_bytes(format, columns, group, scale);
    return m;
}

void products(Format format, size_t group, Element scale, size_t rows_of_matrix, size_t columns) {
    Matrix m = make(format, rows_of_matrix, columns, group, scale);
    Lines<uint8_t> panels(m.panels * m.bytes_panel);
    if (group) {
        const size_t bits = format == Format::q4 ? 4 : 8, groups = columns / group, size = element_size(scale);
        std::vector<uint32_t> words(m.rows * columns * bits / 32);
        for (uint32_t& word : words) word = rng.word();
        std::vector<uint8_t> parts[2];
        for (auto& part : parts) {
            part.resize(m.rows * groups * size);
            for (size_t i = 0; i < m.rows * groups; ++i) {
                const float x = 0.01f * rng.value();
                const uint16_t half = half_of(x, scale);
                scale == Element::f32 ? std::memcpy(&part[i * 4], &x, 4) : std::memcpy(&part[i * 2], &half, 2);
            }
        }
        pack_quantized({words.data(), parts[0].data(), parts[1].data()}, bits, m, panels.data);
    } else {
        const size_t size = format == Format::f32 ? 4 : 2;
        std::vector<uint8_t> rows(m.rows * columns * size);
        for (size_t i = 0; i < m.rows * columns; ++i) {
            const float x = rng.value();
            const uint16_t half = half_of(x, format == Format::bf16 ? Element::bf16 : Element::f16);
            size == 4 ? std::memcpy(&rows[i * 4], &x, 4) : std::memcpy(&rows[i * 2], &half, 2);
        }
        pack_floats(rows.data(), format, m.rows, columns, panels.data);
    }
    m.data = panels.data;
    const std::vector<float> bias = rng.values(m.panels * kPanel);
    for (size_t rows : {1, 2, 3, 5, 6, 7, 12, 13, 31}) {
        const size_t stride = round_up(columns, kPanel) + kPanel, groups = group ? columns / group : 1;
        Lines<float> x(rows * stride), scales(rows * groups), sums(rows * groups), scratch(kMatmulScratch);
        Lines<uint16_t> pairs(rows * (stride + kPanel));
        Lines<int8_t> bytes(rows * round_up(columns, 64));
        for (size_t r = 0; r < rows; ++r) {
            for (size_t i = 0; i < columns; ++i) x.data[r * stride + i] = rng.value();
        }
        for (bool integers : {false, true}) {
            if (integers && !group) continue;
            for (Start start : {Start::zero, Start::add}) {
                m.bias = start == Start::zero ? bias.data() : nullptr;
                const size_t y_stride = m.panels * kPanel;
                const std::vector<float> before = rng.values(rows * y_stride);
                std::vector<float> y[2] = {before, before};
                for (size_t i = 0; i < 2; ++i) {
                    const Kernels& kernels = i ? known : tested;
                    Inputs in;
                    in.f32 = x.data, in.f32_stride = stride;
                    if (format == Format::bf16 && kernels.bf16_dot) {
                        for (size_t r = 0; r < rows; ++r) {
                            kernels.to_bf16(x.data + r * stride, columns, pairs.data + r * (stride + kPanel));
                        }
                        in.bf16 = pairs.data, in.bf16_stride = stride + kPanel;
                    }
                    if (integers) {
                        for (size_t r = 0; r < rows; ++r) {
                            kernels.quantize(x.data + r * stride, columns, group, bytes.data + r * round_up(columns, 64),
                                             scales.data + r * groups, sums.data + r * groups);
                        }
                        in.q8 = bytes.data, in.q8_stride = round_up(columns, 64);
                        in.scale = scales.data, in.sum = sums.data, in.group_stride = groups;
                    }
                    kernels.matmul(m, in, rows, 0, m.panels, y[i].data(), y_stride, start, scratch.data);
                }
                // Where inputs are rounded to bf16 first the tested kernels are off by that; nowhere else.
                const float tolerance = format == Format::bf16 && tested.bf16_dot ? 1e-2f : 4e-6f;
                check(std::string("product ") + formats[static_cast<int>(format)] + " group " + std::to_string(group) +
                          " scales " + elements[static_cast<int>(scale)] + " columns " + std::to_string(columns) + " rows " +
                          std::to_string(rows) + (integers ? " int8" : ""),
                      y[0].data(), y[1].data(), y[0].size(), tolerance);
            }
        }
    }
}

void elementwise() {
    for (size_t n : {1, 3, 4, 5, 16, 31, 32, 33, 128, 640}) {
        const std::string size = " of " + std::to_string(n);
        const std::vector<float> x = rng.values(n, 3), w = rng.values(n);
        std::vector<float> a(n), b(n);
        tested.rms_norm(x.data(), w.data(), 1e-5f, n, a.data());
        known.rms_norm(x.data(), w.data(), 1e-5f, n, b.data());
        check("rms_norm" + size, a.data(), b.data(), n, 1e-6f);
        const std::vector<float> gate = rng.values(n, 100);  // where the exponential is clamped too
        tested.silu_multiply(gate.data(), w.data(), n, a.data());
        known.silu_multiply(gate.data(), w.data(), n, b.data());
        check("silu_multiply" + size, a.data(), b.data(), n, 1e-6f);
        std::vector<uint16_t> p(n + 1), q(n + 1);
        tested.to_bf16(x.data(), n, p.data());
        known.to_bf16(x.data(), n, q.data());
        check_bytes("to_bf16" + size, p.data(), q.data(), 2 * (n + n % 2));
        for (size_t group : {32, 64, 128}) {
            if (n % group) continue;
            std::vector<int8_t> c(n), d(n);
            std::vector<float> scales[2], sums[2];
            for (size_t i = 0; i < 2; ++i) scales[i].resize(n / group), sums[i].resize(n / group);
            tested.quantize(x.data(), n, group, c.data(), scales[0].data(), sums[0].data());
            known.quantize(x.data(), n, group, d.data(), scales[1].data(), sums[1].data());
            check_bytes("quantize" + size, c.data(), d.data(), n);
            check("scales" + size, scales[0].data(), scales[1].data(), n / group, 1e-7f);
            check("sums" + size, sums[0].data(), sums[1].data(), n / group, 1e-5f);
        }
    }
}

void attention(Element element, size_t dim, size_t keys, size_t rows, bool masked) {
    const size_t width = key_stride(element, dim), stride = round_up(dim, kKeys), size = element_size(element);
    const size_t capacity = round_up(keys, 64);
    const std::string what = std::string("attention ") + elements[static_cast<int>(element)] + " dim " +
                             std::to_string(dim) + " keys " + std::to_string(keys) + " rows " + std::to_string(rows) +
                             (masked ? " masked" : "");
    Lines<uint8_t> k[2] = {Lines<uint8_t>(capacity * width * size), Lines<uint8_t>(capacity * width * size)};
    Lines<uint8_t> v[2] = {Lines<uint8_t>(capacity * stride * size), Lines<uint8_t>(capacity * stride * size)};
    Lines<float> ks[2] = {Lines<float>(capacity), Lines<float>(capacity)}, vs[2] = {Lines<float>(capacity), Lines<float>(capacity)};
    CacheRow cache[2];
    for (size_t i = 0; i < 2; ++i) cache[i] = {element, k[i].data, v[i].data, ks[i].data, vs[i].data, dim, width, stride};
    for (size_t slot = 0; slot < keys; ++slot) {
        // Of sizes that differ by much, so that another slot's scale is far off.
        const float size = 0.5f + static_cast<float>(slot * 7 % 5);
        const std::vector<float> key = rng.values(dim, 2), value = rng.values(dim, size);
        tested.store(cache[0], slot, key.data(), value.data());
        known.store(cache[1], slot, key.data(), value.data());
    }
    check_bytes(what + ": keys", k[0].data, k[1].data, k[0].size);
    check_bytes(what + ": values", v[0].data, v[1].data, v[0].size);
    check(what + ": scales", ks[0].data, ks[1].data, capacity, 1e-7f);
    Lines<float> queries(kTileRows * width), scratch(kAttentionScratch + 3 * kTileRows * round_up(dim, kPanel));
    std::vector<float> out[2];
    std::vector<size_t> reach(rows);
    std::vector<std::vector<uint8_t>> allowed(rows, std::vector<uint8_t>(keys));
    std::vector<const uint8_t*> masks;
    for (size_t r = 0; r < rows; ++r) {
        for (size_t d = 0; d < dim; ++d) queries.data[r * width + d] = rng.value();
        reach[r] = keys - (rows - 1 - r);
        for (size_t i = 0; i < keys; ++i) allowed[r][i] = i == 0 || (i < reach[r] && rng.word() % 3);
        masks.push_back(allowed[r].data());
    }
    for (size_t i = 0; i < 2; ++i) {
        out[i].resize(rows * dim);
        std::vector<float*> to;
        for (size_t r = 0; r < rows; ++r) to.push_back(out[i].data() + r * dim);
        AttentionTile tile{};
        tile.cache = cache[i], tile.rows = rows, tile.keys = keys, tile.queries = queries.data, tile.reach = reach.data();
        tile.mask = masked ? masks.data() : nullptr, tile.out = to.data(), tile.scratch = scratch.data;
        (i ? known : tested).attention(tile);
    }
    check(what, out[0].data(), out[1].data(), out[0].size(), element == Element::bf16 && tested.bf16_dot ? 2e-2f : 4e-6f);
}

}  // namespace

int main() {
    for (Format format : {Format::f32, Format::bf16, Format::f16}) {
        for (auto [rows, columns] : {std::pair<size_t, size_t>{1, 1}, {17, 33}, {33, 128}, {97, 301}}) {
            products(format, 0, Element::f32, rows, columns);
        }
    }
    for (Format format : {Format::q4, Format::q8}) {
        for (size_t group : {32, 64, 128}) {
            for (Element scale : {Element::f32, Element::bf16, Element::f16}) products(format, group, scale, 35, 2 * group);
        }
        products(format, 64, Element::f16, 83, 640);
        products(format, 64, Element::f16, 19, 2304);  // more groups than stay in the first-level cache
    }
    elementwise();
    for (Element element : {Element::f32, Element::bf16, Element::f16, Element::i8}) {
        for (size_t dim : {8, 15, 18, 64}) {
            for (auto [keys, rows] : {std::pair<size_t, size_t>{1, 1}, {2, 2}, {16, 3}, {65, 16}, {131, 16}, {200, 7}}) {
                for (bool masked : {false, true}) attention(element, dim, keys, rows, masked);
            }
        }
    }
    std::printf("%s: %d comparisons, %d differ\n", TEXT(POLYLLAMA_TESTED), compared, wrong);
    return wrong ? 1 : 0;
}
