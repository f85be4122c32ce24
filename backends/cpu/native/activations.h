// The activations of core/graph/activations.py by number, in the order of its table.
#pragma once

#include <cstddef>

namespace polyllama {

enum class Activation : int {
    silu, gelu, gelu_tanh, quick_gelu, relu, relu2, relu6, leaky_relu, sigmoid, tanh, mish, elu, softplus, linear
};

// y = activation(gate) * up, by the C library in double precision: for all but silu, which kernels have.
void activate_multiply(Activation activation, const float* gate, const float* up, size_t n, float* y);

}  // namespace polyllama
