// What is done element by element or row by row: normalizing, rounding inputs, activations. `Vector` is the includer's.
#pragma once

#include <cmath>

#include "formats.h"

namespace polyllama {
namespace {

using Floats = Vector::Floats;
constexpr size_t kLanes = Vector::lanes;

// e^x to about one unit in the last place: x = n ln 2 + r, and a Taylor polynomial for |r| <= ln(2) / 2, whose first
// term left out is below 6e-9 of the result. Clamped where floats end; below, what is zero comes out as 1e-38. What is no
// number stays none: of two operands, max and min give back the second where one is none, so x is the second.
inline Floats exponential(Floats x) {
    using V = Vector;
    x = V::max(V::set1(-87.0f), V::min(V::set1(88.0f), x));
    const auto n = V::nearest(V::mul(x, V::set1(1.44269504f)));
    const Floats whole = V::to_floats(n);
    Floats r = V::fma(whole, V::set1(-0.693145752f), x);  // ln 2 in two parts: the first has few bits
    r = V::fma(whole, V::set1(-1.42860677e-6f), r);
    Floats p = V::set1(1.0f / 5040);
    p = V::fma(p, r, V::set1(1.0f / 720));
    p = V::fma(p, r, V::set1(1.0f / 120));
    p = V::fma(p, r, V::set1(1.0f / 24));
    p = V::fma(p, r, V::set1(1.0f / 6));
    p = V::fma(p, r, V::set1(0.5f));
    p = V::fma(p, r, V::set1(1.0f));
    p = V::fma(p, r, V::set1(1.0f));
    return V::mul(p, V::power_of_two(n));
}

void rms_norm(const float* x, const float* weight, float eps, size_t n, float* y) {
    using V = Vector;
    Floats sums[2] = {V::zero(), V::zero()};
    size_t i = 0;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
        const Floats a = V::load(x + i), b = V::load(x + i + kLanes);
        sums[0] = V::fma(a, a, sums[0]);
        sums[1] = V::fma(b, b, sums[1]);
    }
    float sum = V::sum(V::add(sums[0], sums[1]));
    for (; i < n; ++i) sum += x[i] * x[i];
    const float root = sqrtf(sum / static_cast<float>(n) + eps);
    const Floats roots = V::set1(root);
    for (i = 0; i + kLanes <= n; i += kLanes) {
        V::store(y + i, V::mul(V::load(weight + i), V::div(V::load(x + i), roots)));
    }
    for (; i < n; ++i) y[i] = weight[i] * (x[i] / root);
}

void to_bf16(const float* x, size_t n, uint16_t* y) {
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) Vector::store_bf16(y + i, Vector::load(x + i));
    if (i < n) {
        float rest[kLanes] = {};
        uint16_t rounded[kLanes];
        for (size_t j = i; j < n; ++j) rest[j - i] = x[j];
        Vector::store_bf16(rounded, Vector::load(rest));
        for (size_t j = i; j < n; ++j) y[j] = rounded[j - i];
    }
    if (n % 2) y[n] = 0;
}

// Groups are whole multiples of 32, so vectors divide them. `sum` is of the inputs as they were rounded: a weight is
// scale * q + bias with both large and of opposite sign, so biases that met other inputs than the values did would leave
// errors several times those of the rounding itself. A group with something that is no number has no scale either.
void quantize(const float* x, size_t n, size_t group, int8_t* q, float* scale, float* sum) {
    using V = Vector;
    for (size_t start = 0; start < n; start += group, ++scale, ++sum) {
        Floats largest = V::zero(), nothing = V::zero();
        for (size_t i = start; i < start + group; i += kLanes) {
            const Floats values = V::load(x + i);
            largest = V::max(largest, V::abs(values));
            nothing = V::fma(values, V::zero(), nothing);
        }
        const float top = V::largest(largest);
        // Beneath this 127 / top is infinite; such a group is nothing beside any other.
        const float inverse = top > 1e-36f ? 127.0f / top : 0.0f;
        *scale = top / 127.0f + V::sum(nothing);
        const Floats factor = V::set1(inverse);
        auto total = V::int_zero();
        for (size_t i = start; i < start + group; i += kLanes) {
            const auto whole = V::nearest(V::mul(V::load(x + i), factor));
            total = V::int_add(total, whole);
            V::store_i8(q + i, whole);
        }
        *sum = *scale * V::sum(V::to_floats(total));
    }
}

void silu_multiply(const float* gate, const float* up, size_t n, float* y) {
    using V = Vector;
    const Floats one = V::set1(1.0f);
    auto product = [&](Floats g, Floats u) {
        const Floats e = exponential(V::sub(V::zero(), g));
        return V::mul(V::div(g, V::add(one, e)), u);
    };
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) V::store(y + i, product(V::load(gate + i), V::load(up + i)));
    if (i < n) {
        float g[kLanes] = {}, u[kLanes] = {};
        for (size_t j = i; j < n; ++j) g[j - i] = gate[j], u[j - i] = up[j];
        V::store(g, product(V::load(g), V::load(u)));
        for (size_t j = i; j < n; ++j) y[j] = g[j - i];
    }
}

}  // namespace
}  // namespace polyllama
