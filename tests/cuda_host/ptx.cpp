// ldmatrix and mma as the PTX manual describes them. Compiled without sanitizers, as block.cpp.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cstring>

#include "block.h"

namespace vispec::host {
namespace {

constexpr int kMatrix = 8;  // rows, and 16-bit values in a row

template <bool kTransposed>
void load_all(void* const (&arguments)[kWarpSize], const char*, Where) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    for (int i = 0; i < 4; ++i) {
      uint16_t pair[2];
      for (int k = 0; k < 2; ++k) {
        const int major = lane / 4, minor = 2 * (lane % 4) + k;
        const int row = kTransposed ? minor : major, col = kTransposed ? major : minor;
        const auto* owner = static_cast<const LoadMatrix*>(arguments[i * kMatrix + row]);
        std::memcpy(&pair[k], static_cast<const char*>(owner->row) + 2 * col, 2);
      }
      static_cast<LoadMatrix*>(arguments[lane])->r[i] = uint32_t{pair[1]} << 16 | pair[0];
    }
  }
}

float value(__half_raw bits) { return __half2float(__half(bits)); }
float value(__nv_bfloat16_raw bits) { return __bfloat162float(__nv_bfloat16(bits)); }

// value `k` of a packed pair
template <class Raw>
float unpack(uint32_t pair, int k) {
  Raw raw;
  raw.x = static_cast<unsigned short>(pair >> 16 * k);
  return value(raw);
}

template <class Raw>
void multiply_all(void* const (&arguments)[kWarpSize], const char*, Where) {
  constexpr int kM = 16, kN = 8, kK = 16;
  float a[kM][kK], b[kN][kK];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto& p = *static_cast<const Product*>(arguments[lane]);
    const int group = lane / 4, two = 2 * (lane % 4);
    for (int k = 0; k < 2; ++k) {
      for (int i = 0; i < 4; ++i) a[group + 8 * (i % 2)][two + 8 * (i / 2) + k] = unpack<Raw>(p.a[i], k);
      for (int i = 0; i < 2; ++i) b[group][two + 8 * i + k] = unpack<Raw>(p.b[i], k);
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    float* d = static_cast<Product*>(arguments[lane])->d;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), col = 2 * (lane % 4) + i % 2;
      for (int k = 0; k < kK; ++k) d[i] += a[row][k] * b[col][k];
    }
  }
}

}  // namespace

void load_matrix(LoadMatrix& lane, bool transposed, Where where) {
  check_aligned(lane.row, "ldmatrix", where);
  check_shared(lane.row, 16, "ldmatrix", where);
  note_read(lane.row, 16);
  warp_operation("ldmatrix", ~0u, &lane, transposed ? load_all<true> : load_all<false>, where);
}

void multiply_half(Product& lane, Where where) { warp_operation("mma", ~0u, &lane, multiply_all<__half_raw>, where); }

void multiply_bfloat16(Product& lane, Where where) {
  warp_operation("mma", ~0u, &lane, multiply_all<__nv_bfloat16_raw>, where);
}

}  // namespace vispec::host
