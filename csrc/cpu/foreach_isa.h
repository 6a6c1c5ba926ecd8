// Compiles the file named by VISPEC_KERNEL once for each instruction set, in a namespace of its own: vispec::cpu::base,
// ::v3 (AVX2) and ::v4 (AVX-512), with VISPEC_LANES floats a vector and VISPEC_REGISTERS vectors. A kernel may write
// its vectors out (target_clones would split those to the baseline's size first), and what other headers define stays
// compiled for the baseline, so that no inline function of theirs can bring AVX-512 into code that others run.
// Other compilers than gcc, and other machines, get the baseline alone.
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

#if defined(__x86_64__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2")  // what isa() asks the machine for
#define VISPEC_LANES 8
#define VISPEC_REGISTERS 16
namespace vispec::cpu::v3 {
#include VISPEC_KERNEL
}
#undef VISPEC_LANES
#undef VISPEC_REGISTERS
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2,avx512f,avx512bw,avx512dq,avx512vl")
#define VISPEC_LANES 16
#define VISPEC_REGISTERS 32
namespace vispec::cpu::v4 {
#include VISPEC_KERNEL
}
#undef VISPEC_LANES
#undef VISPEC_REGISTERS
#pragma GCC pop_options
#else
namespace vispec::cpu {
namespace v3 = base;  // isa() never asks for it, but the callers name it
namespace v4 = base;
}  // namespace vispec::cpu
#endif
