// Vector code without -march: a function marked VISPEC_CLONES is compiled for several instruction sets, and the loader
// picks the best that the machine has. What it calls must be VISPEC_INLINE, to be compiled with it. Elsewhere (aarch64,
// other compilers) there is the one plain version, vectorised for the baseline.
#pragma once

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12 && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // sanitizers are not up when the loader picks
#define VISPEC_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VISPEC_CLONES
#endif

#define VISPEC_INLINE inline __attribute__((always_inline))
