// Scores and their indices as integers, so that one comparison ranks them and equal scores have one order everywhere.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "common/host_device.h"

namespace vispec {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Ordered as floats are; NaN counts as minus infinity and -0 as 0.
VISPEC_HOST_DEVICE uint32_t order_key(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>((x > kMinusInfinity ? x : kMinusInfinity) + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Larger is better: by score, equal scores by lower index. No two indices have equal keys.
VISPEC_HOST_DEVICE uint64_t rank_key(float score, uint32_t index) {
  return static_cast<uint64_t>(order_key(score)) << 32 | static_cast<uint32_t>(~index);
}

VISPEC_HOST_DEVICE uint32_t index_of(uint64_t rank) { return ~static_cast<uint32_t>(rank); }

VISPEC_HOST_DEVICE float score_of(uint64_t rank) {
  const uint32_t key = static_cast<uint32_t>(rank >> 32);
  return std::bit_cast<float>(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

}  // namespace vispec
