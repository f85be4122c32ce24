// Into the panels of formats.h and back; every value comes back bit for bit.
#pragma once

#include "formats.h"

namespace polyllama {

// Rows of `size`-byte elements (2 or 4) [rows][columns] and panels of a float format.
void pack_floats(const uint8_t* rows, Format format, size_t n, size_t columns, uint8_t* panels);
void unpack_floats(const uint8_t* panels, Format format, size_t n, size_t columns, uint8_t* rows);

// Words of `bits`-bit values [n][columns * bits / 32], scales and biases [n][columns / group], and panels of q4 or q8.
struct Packed {
    const uint32_t* words;
    const uint8_t* scales;
    const uint8_t* biases;
};
void pack_quantized(const Packed& from, size_t bits, const Matrix& shape, uint8_t* panels);
void unpack_quantized(const Matrix& m, size_t bits, uint32_t* words, uint8_t* scales, uint8_t* biases);

// Row `row` of a matrix as floats, for embeddings that are also a head.
void read_row(const Matrix& m, size_t row, float* out);

// `n` values of `bits` bits from words, as bytes.
void read_values(const uint32_t* words, size_t bits, size_t n, uint8_t* out);

float to_float(Element element, const void* data, size_t index);

}  // namespace polyllama
