// The functions of csrc/cuda/ptx.cuh for a CPU; the PTX manual says what each does, block.h how it is run.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cuda/launch.cuh"

namespace vispec::cuda {

inline unsigned reread_thread() { return threadIdx.x; }

inline void cp_async_16(void* shared, const void* global, bool valid, host::Where where = host::Where::current()) {
  host::copy_async(shared, global, valid, where);
}
inline void cp_async_commit() { host::commit_copies(); }
template <int kPending>
void cp_async_wait() {
  host::wait_for_copies(kPending);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row, host::Where where = host::Where::current()) {
  host::LoadMatrix lane{r, shared_row};
  host::load_matrix(lane, false, where);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row, host::Where where = host::Where::current()) {
  host::LoadMatrix lane{r, shared_row};
  host::load_matrix(lane, true, where);
}

template <class T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                  host::Where where = host::Where::current()) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  host::Product lane{d, a, b};
  std::is_same_v<T, __half> ? host::multiply_half(lane, where) : host::multiply_bfloat16(lane, where);
}

inline float exp2_approx(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.0f : y;  // NaN stays
}

template <class T>
uint32_t pack2(float low, float high) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  uint16_t bits[2];
  for (int i = 0; i < 2; ++i) {
    const T x(i == 0 ? low : high);
    std::memcpy(&bits[i], &x, 2);
  }
  return uint32_t{bits[1]} << 16 | bits[0];
}

inline uint4 load_16_once(const void* global, host::Where where = host::Where::current()) {
  host::check_aligned(global, "load_16_once", where);
  host::note_read(global, 16);
  uint4 r;
  std::memcpy(&r, global, 16);
  return r;
}

}  // namespace vispec::cuda
