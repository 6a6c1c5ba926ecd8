// Rows of logits, 16 bytes at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cstdint>

#include "common/layout.h"
#include "common/order.h"
#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"

namespace vispec::cuda {

template <class T>
constexpr int kPerLoad = 16 / sizeof(T);

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
struct LoadedValues {
  T value[kPerLoad<T>];
};

// One row. `whole`: it starts at a multiple of 16 bytes and has a multiple of them.
template <class T>
struct LogitsRow {
  const T* logits;
  int vocab_size;
  bool whole;

  // Tokens [first, first + kPerLoad) as floats, minus infinity behind the vocabulary; `first` is a multiple of
  // kPerLoad.
  __device__ __forceinline__ void load(int first, float (&x)[kPerLoad<T>]) const {
    if (whole) {
      convert(first, raw(first), x);
    } else {
      load_singly(first, x);
    }
  }

  // kLoads times that, `step` tokens apart: all of it is on its way before any of it is used.
  template <int kLoads>
  __device__ __forceinline__ void load(int first, int step, float (&x)[kLoads][kPerLoad<T>]) const {
    if (whole) {
      uint4 loaded[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i) loaded[i] = raw(first + i * step);
#pragma unroll
      for (int i = 0; i < kLoads; ++i) convert(first + i * step, loaded[i], x[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) load_singly(first + i * step, x[i]);
    }
  }

 private:
  __device__ __forceinline__ uint4 raw(int first) const {
    return first < vocab_size ? load_16_once(logits + first) : uint4{};
  }
  __device__ __forceinline__ void convert(int first, const uint4& loaded, float (&x)[kPerLoad<T>]) const {
    const auto values = std::bit_cast<LoadedValues<T>>(loaded);
#pragma unroll
    for (int i = 0; i < kPerLoad<T>; ++i) x[i] = first < vocab_size ? to_float(values.value[i]) : kMinusInfinity;
  }
  __device__ __forceinline__ void load_singly(int first, float (&x)[kPerLoad<T>]) const {
#pragma unroll
    for (int i = 0; i < kPerLoad<T>; ++i) {
      x[i] = first + i < vocab_size ? to_float(logits[first + i]) : kMinusInfinity;
    }
  }
};

// The row of one node. Params: those of an operator that reads logits.
template <class T, class Params>
__device__ __forceinline__ LogitsRow<T> logits_row(const Params& p, int seq, int node, bool whole) {
  const char* row = p.logits + seq * p.logits_seq + node * p.logits_node;
  return {reinterpret_cast<const T*>(row), p.vocab_size, whole};
}

template <class Params>
bool rows_are_whole(const Params& p) {
  const int64_t row_bytes = int64_t{p.vocab_size} * (p.dtype == DType::kFloat32 ? 4 : 2);
  return (reinterpret_cast<uintptr_t>(p.logits) | p.logits_seq | p.logits_node | row_bytes) % 16 == 0;
}

// Calls body.operator()<T>() with the element type.
template <class Body>
auto dispatch_dtype(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kFloat16:
      return body.template operator()<__half>();
    case DType::kBFloat16:
      return body.template operator()<__nv_bfloat16>();
    default:
      return body.template operator()<float>();
  }
}

}  // namespace vispec::cuda
