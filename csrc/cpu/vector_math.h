// Branch-free functions of one number, which compilers turn into vector code inside `omp simd` loops.
#pragma once

#include <bit>
#include <cstdint>

namespace vispec::cpu {

// exp(x) for x <= 0, relative error below 1e-7; below -87, and for NaN, exp(-87) = 1.6e-38.
inline float exp_nonpositive(float x) {
  x = x > -87.0f ? x : -87.0f;
  const float shifted = x * 1.44269504f + 0x1.8p23f;  // the integer nearest to x / log(2) in its low bits
  const float n = shifted - 0x1.8p23f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // log(2) in two parts: the first product is exact
  float p = 1.98756915e-4f;
  p = p * r + 1.39819995e-3f;
  p = p * r + 8.33345191e-3f;
  p = p * r + 4.16657959e-2f;
  p = p * r + 1.66666655e-1f;
  p = p * r + 5.00000012e-1f;
  p = p * r * r + r + 1.0f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23));
}

}  // namespace vispec::cpu
