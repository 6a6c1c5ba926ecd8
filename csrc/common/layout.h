// What operators say about tensors in their parameter structs.
#pragma once

#include <cstdint>

namespace vispec {

constexpr int kMaxNodes = 256;  // of one tree: four mask words a row

enum class DType { kFloat32, kFloat16, kBFloat16 };

// Byte distances in a [B, H, N, D] tensor whose last dimension is contiguous.
struct Strides {
  int64_t seq, head, row;
};

constexpr int64_t offset(const Strides& strides, int64_t seq, int64_t head, int64_t row) {
  return seq * strides.seq + head * strides.head + row * strides.row;
}

}  // namespace vispec
