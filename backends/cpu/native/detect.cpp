#include "detect.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

namespace polyllama {
namespace {

#if defined(__x86_64__)
// Not every compiler's __builtin_cpu_supports knows AVX-VNNI: it is bit 4 of EAX in leaf 7.1.
bool has_avx_vnni() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1u);
}
#elif defined(__aarch64__) && defined(__APPLE__)
bool has(const char* name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value;
}
#endif

}  // namespace

std::vector<const Kernels*> usable_kernels() {
    std::vector<const Kernels*> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vnni");
    if (avx512 && __builtin_cpu_supports("avx512bf16")) found.push_back(kernels_avx512_bf16());
    if (avx512) found.push_back(kernels_avx512());
    if (avx2 && has_avx_vnni()) found.push_back(kernels_avx2_vnni());
    if (avx2) found.push_back(kernels_avx2());
#elif defined(__aarch64__) && defined(__linux__)
    const unsigned long one = getauxval(AT_HWCAP), two = getauxval(AT_HWCAP2);
    const bool dot = one & HWCAP_ASIMDDP;
    if (dot && (two & HWCAP2_I8MM) && (two & HWCAP2_BF16)) found.push_back(kernels_neon_i8mm());
    if (dot) found.push_back(kernels_neon());
#elif defined(__aarch64__) && defined(__APPLE__)
    const bool dot = has("hw.optional.arm.FEAT_DotProd");
    if (dot && has("hw.optional.arm.FEAT_I8MM") && has("hw.optional.arm.FEAT_BF16")) found.push_back(kernels_neon_i8mm());
    if (dot) found.push_back(kernels_neon());
#endif
    found.push_back(kernels_portable());
    return found;
}

const Kernels* find_kernels(const std::string& name) {
    for (const Kernels* kernels : usable_kernels()) {
        if (name == kernels->name) return kernels;
    }
    return nullptr;
}

}  // namespace polyllama
