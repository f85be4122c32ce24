// The kernels for one instruction set. Compiled once for each, with its own flags and POLYLLAMA_ISA set to its name;
// everything included here has internal linkage, so that no code for one machine is taken for another's.
#include <cstddef>
#include <cstdint>

#if defined(__AVX512F__)
#include "vector_avx512.h"
#elif defined(__AVX2__)
#include "vector_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "vector_neon.h"
#else
#include "vector_portable.h"
#endif

#include "attention.h"
#include "elementwise.h"
#include "matmul.h"

#define POLYLLAMA_JOIN_(a, b) a##b
#define POLYLLAMA_JOIN(a, b) POLYLLAMA_JOIN_(a, b)
#define POLYLLAMA_TEXT_(a) #a
#define POLYLLAMA_TEXT(a) POLYLLAMA_TEXT_(a)

namespace polyllama {

const Kernels* POLYLLAMA_JOIN(kernels_, POLYLLAMA_ISA)() {
    static constexpr Kernels table = {
        POLYLLAMA_TEXT(POLYLLAMA_ISA), Vector::bf16_dot, matmul, rms_norm, to_bf16, quantize, silu_multiply, attention,
        store,
    };
    return &table;
}

}  // namespace polyllama
