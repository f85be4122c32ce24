// What kernels and program agree on: how matrices, activations and caches lie in memory, and the table of kernels.
//
// A matrix [N, K] lies in panels of 16 output rows, so that one lane of an accumulator is one output row and nothing is
// summed across lanes. The layout is the same for every instruction set: 512-bit registers take a panel in one go,
// 256-bit ones in two, 128-bit ones in four.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polyllama {

constexpr size_t kPanel = 16;  // output rows of a panel
constexpr size_t kKeys = 16;   // keys of a block in the cache
constexpr size_t kLine = 64;   // bytes of a cache line; everything is aligned to it

constexpr size_t round_up(size_t n, size_t step) { return (n + step - 1) / step * step; }

// In bfloat16. Rounding adds to the bits, and some that are no number would turn into 0 or infinity.
constexpr uint16_t kNotANumber = 0x7fc0;

enum class Element : int32_t { f32 = 0, bf16 = 1, f16 = 2, i8 = 3 };

enum class Format : int32_t {
    f32 = 0,   // [K][16]
    bf16 = 1,  // [K / 2][16][2]: a 32-bit lane holds two neighbouring inputs
    f16 = 2,   // [K][16], K rounded up to even
    q4 = 3,    // groups of g inputs: g/8 times [16][4] bytes (low nibbles k..k+3, high nibbles k+4..k+7), scales, biases
    q8 = 4,    // groups of g inputs: g/4 times [16][4] bytes, 16 scales, 16 biases
};

// Elements of scales and biases are f32, bf16 or f16, 16 of each after a group's values.
inline size_t element_size(Element e) { return e == Element::f32 ? 4 : e == Element::i8 ? 1 : 2; }

inline size_t group_values_bytes(Format f, size_t group) { return group * kPanel / (f == Format::q4 ? 2 : 1); }

inline size_t group_bytes(Format f, size_t group, Element scale) {
    return group_values_bytes(f, group) + 2 * kPanel * element_size(scale);
}

inline size_t panel_bytes(Format f, size_t columns, size_t group, Element scale) {
    switch (f) {
        case Format::f32: return columns * kPanel * 4;
        case Format::bf16:
        case Format::f16: return round_up(columns, 2) * kPanel * 2;
        default: return columns / group * group_bytes(f, group, scale);
    }
}

struct Matrix {
    Format format;
    Element scale;  // of groups
    size_t rows, columns, panels;
    size_t group;         // inputs that share a scale; 0 for floats
    size_t bytes_panel;   // of a whole panel
    size_t bytes_group;   // of a group's values, scales and biases
    const uint8_t* data;
    const float* bias;    // padded to whole panels, or null
};

// Inputs of a product, in the forms that matrices ask for; row r of a form is at base + r * stride.
struct Inputs {
    const float* f32 = nullptr;
    size_t f32_stride = 0;
    const uint16_t* bf16 = nullptr;  // pairs, zero-padded to whole ones
    size_t bf16_stride = 0;
    const int8_t* q8 = nullptr;      // rounded per row and group of `group` inputs
    size_t q8_stride = 0;
    const float* scale = nullptr;    // [rows][K / group]
    const float* sum = nullptr;      // [rows][K / group] sums of the rounded inputs, for the groups' biases
    size_t group_stride = 0;
};

// Keys and values of one attention. Keys lie in blocks [capacity / 16][Dk][16]: a lane is a key. Values are [capacity][Dv]
// with Dv = D rounded up to 16. In bf16 both lie in pairs for products of pairs: keys [Dk / 2][16][2] in a block, with Dk
// = D rounded up to even, and values [capacity / 2][Dv][2]. In int8 every key and value has a scale of its own.
struct CacheRow {
    Element element;
    uint8_t* keys;
    uint8_t* values;
    float* key_scales;
    float* value_scales;
    size_t head_dim, key_stride, value_stride;  // D, Dk, Dv
};

// One tile of attention: rows that share keys and values, each with its own reach.
struct AttentionTile {
    CacheRow cache;
    size_t rows;             // at most kTileRows
    size_t keys;             // slots 0 .. keys-1 may be looked at by the row that sees most
    const float* queries;    // [rows][Dk], rotated and scaled; what pads a row is 0
    const size_t* reach;     // per row: slots it may look at, when there is no mask
    const uint8_t* const* mask;  // per row: bytes [keys], 1 where it may look; null for causal
    float* const* out;       // per row: D floats
    float* scratch;          // kAttentionScratch floats and rows * (Dv + Dk)
};
constexpr size_t kTileRows = 16;
constexpr size_t kTileKeys = 64;
constexpr size_t kAttentionScratch = 2 * kTileRows * kTileKeys;

inline size_t key_stride(Element e, size_t head_dim) { return e == Element::bf16 ? round_up(head_dim, 2) : head_dim; }

constexpr size_t kTileBytes = 18 * 1024;  // of packed weights that blocks of rows pass by
constexpr size_t kFloatInputs = 128;      // inputs of a tile that is unpacked to floats
constexpr size_t kMatmulScratch = 2 * kPanel * kFloatInputs;  // floats of scratch that a thread needs for it

enum class Start : int32_t { zero = 0, add = 1 };  // what a product is added to: the bias, or what is there (and the bias)

struct Kernels {
    const char* name;
    bool bf16_dot;  // bf16 matrices take bf16 inputs
    // y[r][16 * p ...] for rows and panels [panel, panel_end) of m; y points at the column of the first panel.
    void (*matmul)(const Matrix& m, const Inputs& x, size_t rows, size_t panel, size_t panel_end, float* y,
                   size_t y_stride, Start start, float* scratch);
    // weight * x / sqrt(mean(x^2) + eps)
    void (*rms_norm)(const float* x, const float* weight, float eps, size_t n, float* y);
    void (*to_bf16)(const float* x, size_t n, uint16_t* y);
    void (*quantize)(const float* x, size_t n, size_t group, int8_t* q, float* scale, float* sum);
    void (*silu_multiply)(const float* gate, const float* up, size_t n, float* y);
    void (*attention)(const AttentionTile& tile);
    // One key and one value into slot `slot` of a cache.
    void (*store)(const CacheRow& cache, size_t slot, const float* key, const float* value);
};

const Kernels* kernels_portable();
const Kernels* kernels_avx2();
const Kernels* kernels_avx2_vnni();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512_bf16();
const Kernels* kernels_neon();
const Kernels* kernels_neon_i8mm();

}  // namespace polyllama
