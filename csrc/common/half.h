// fp16 and bf16 as bits, to and from fp32, by integer arithmetic alone: no special hardware, and loops over it
// vectorise.
#pragma once

#include <bit>
#include <cstdint>

#include "common/host_device.h"

namespace vispec {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

VISPEC_HOST_DEVICE float to_float(float x) { return x; }
VISPEC_HOST_DEVICE float to_float(BFloat16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }
VISPEC_HOST_DEVICE float to_float(Half x) {
  // Exponent and mantissa in fp32's places are the value times 2^-112, subnormals too; infinity and NaN have fp16's
  // largest exponent and need fp32's.
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16, rest = uint32_t{x.bits & 0x7fffu} << 13;
  const uint32_t finite = std::bit_cast<uint32_t>(std::bit_cast<float>(rest) * 0x1p112f);
  return std::bit_cast<float>(sign | (rest < 0x7c00u << 13 ? finite : rest | 0x7f800000u));
}

// To the nearest, ties to even.
template <class T>
VISPEC_HOST_DEVICE T from_float(float x);

template <>
VISPEC_HOST_DEVICE float from_float<float>(float x) {
  return x;
}
template <>
VISPEC_HOST_DEVICE BFloat16 from_float<BFloat16>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  return {static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded)};
}
template <>
VISPEC_HOST_DEVICE Half from_float<Half>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  const uint32_t normal = (rest - (112u << 23) + 0xfffu + (rest >> 13 & 1)) >> 13;
  // Below 2^-14 fp16 counts in steps of 2^-24, which is the last bit of a number in [0.5, 1): adding 0.5 rounds to it.
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(rest) + 0.5f) - 0x3f000000u;
  const uint32_t finite = rest < 113u << 23 ? subnormal : rest < 0x477ff000u ? normal : 0x7c00u;
  return {static_cast<uint16_t>(sign | (rest > 0x7f800000u ? 0x7e00u : finite))};
}

}  // namespace vispec
