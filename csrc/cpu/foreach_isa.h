// Compiles the file named by VISPEC_KERNEL once for each instruction set, in a namespace of its own: vispec::cpu::base,
// ::v3 (AVX2) and ::v4 (AVX-512), with VISPEC_LANES floats a vector and VISPEC_REGISTERS vectors. For kernels that write
// their vectors out: the compiler would split those to the baseline's size before it makes target_clones (clones.h).
// Other headers must be included before, and a lambda would not get clang's attribute: use functions.
#define VISPEC_LANES 4
#if defined(__aarch64__)
#define VISPEC_REGISTERS 32
#else
#define VISPEC_REGISTERS 16
#endif
namespace vispec::cpu::base {
#include VISPEC_KERNEL
}
#undef VISPEC_LANES
#undef VISPEC_REGISTERS

#if defined(__x86_64__)
#define VISPEC_LANES 8
#define VISPEC_REGISTERS 16
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("arch=x86-64-v3"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#endif
namespace vispec::cpu::v3 {
#include VISPEC_KERNEL
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef VISPEC_LANES
#undef VISPEC_REGISTERS

#define VISPEC_LANES 16
#define VISPEC_REGISTERS 32
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("arch=x86-64-v4"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#endif
namespace vispec::cpu::v4 {
#include VISPEC_KERNEL
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef VISPEC_LANES
#undef VISPEC_REGISTERS
#endif
