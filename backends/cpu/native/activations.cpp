#include "activations.h"

#include <algorithm>
#include <cmath>

namespace polyllama {
namespace {

double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

double activate(Activation activation, double x) {
    switch (activation) {
        case Activation::silu: return x / (1 + std::exp(-x));
        case Activation::gelu: return 0.5 * x * (1 + std::erf(x * std::sqrt(0.5)));
        case Activation::gelu_tanh: {
            const double scale = std::sqrt(2 / 3.14159265358979323846);
            return 0.5 * x * (1 + std::tanh(scale * x * (1 + 0.044715 * x * x)));
        }
        case Activation::quick_gelu: return x / (1 + std::exp(-1.702 * x));
        case Activation::relu: return std::max(x, 0.0);
        case Activation::relu2: return std::max(x, 0.0) * std::max(x, 0.0);
        case Activation::relu6: return std::min(std::max(x, 0.0), 6.0);
        case Activation::leaky_relu: return x > 0 ? x : 0.01 * x;
        case Activation::sigmoid: return 1 / (1 + std::exp(-x));
        case Activation::tanh: return std::tanh(x);
        case Activation::mish: return x * std::tanh(softplus(x));
        case Activation::elu: return x > 0 ? x : std::expm1(x);
        case Activation::softplus: return softplus(x);
        case Activation::linear: return x;
    }
    return x;
}

}  // namespace

void activate_multiply(Activation activation, const float* gate, const float* up, size_t n, float* y) {
    for (size_t i = 0; i < n; ++i) y[i] = static_cast<float>(activate(activation, gate[i])) * up[i];
}

}  // namespace polyllama
