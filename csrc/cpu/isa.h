// The instruction sets that foreach_isa.h compiles for, and which of them this process uses.
#pragma once

#include <cstdlib>
#include <cstring>

namespace vispec::cpu {

enum class Isa { kBase, kV3, kV4 };  // v3: AVX2 and FMA; v4: AVX-512 (as in x86-64-v3 and -v4)

// The machine's best. VISPEC_ISA=base or v3 in the environment asks for less, so that tests reach every version.
inline Isa isa() {
  static const Isa best = [] {
#if defined(__x86_64__) && !defined(__clang__)  // as in foreach_isa.h
    const char* asked = std::getenv("VISPEC_ISA");
    const bool base = asked != nullptr && std::strcmp(asked, "base") == 0;
    const bool below_v4 = base || (asked != nullptr && std::strcmp(asked, "v3") == 0);
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (v4 && !below_v4) return Isa::kV4;
    if (v3 && !base) return Isa::kV3;
#endif
    return Isa::kBase;
  }();
  return best;
}

}  // namespace vispec::cpu
