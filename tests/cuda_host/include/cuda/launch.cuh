// Replaces csrc/cuda/launch.cuh on a CPU, and is the words of CUDA that kernels use: what nvcc builds in.
#pragma once

// The toolkit's own headers come first: what follows redefines their words for g++.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <driver_types.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "block.h"

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __shared__ _Pragma("GCC error \"static shared memory cannot be poisoned: use dynamic_shared()\"")
#define __constant__ const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx (*::vispec::host::thread_index)
#define blockIdx (::vispec::host::block_index)
#define blockDim (::vispec::host::block_size)
#define gridDim (::vispec::host::grid_size)
constexpr int warpSize = 32;

namespace vispec::host {

template <class T>
T exchange(const char* name, uint32_t mask, T value, int source, Where where) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2));
  Shuffle s{.value = 0, .source = source, .result = 0};
  std::memcpy(&s.value, &value, sizeof value);
  shuffle(s, name, mask, where);
  std::memcpy(&value, &s.result, sizeof value);
  return value;
}

}  // namespace vispec::host

// ---- Barriers, shuffles, votes -----------------------------------------------------------------------------------

using VispecWhere = vispec::host::Where;

inline void __syncthreads(VispecWhere where = VispecWhere::current()) { vispec::host::sync_threads(false, where); }
inline int __syncthreads_count(int predicate, VispecWhere where = VispecWhere::current()) {
  return vispec::host::sync_threads(predicate != 0, where);
}
inline int __syncthreads_or(int predicate, VispecWhere where = VispecWhere::current()) {
  return vispec::host::sync_threads(predicate != 0, where) > 0;
}
inline int __syncthreads_and(int predicate, VispecWhere where = VispecWhere::current()) {
  return vispec::host::sync_threads(predicate == 0, where) == 0;
}
inline void __syncwarp(unsigned mask = ~0u, VispecWhere where = VispecWhere::current()) {
  vispec::host::sync_warp(mask, where);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, VispecWhere where = VispecWhere::current()) {
  const int lane = (vispec::host::lane() & -width) | (source & (width - 1));
  return vispec::host::exchange("__shfl_sync", mask, value, lane, where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, VispecWhere where = VispecWhere::current()) {
  const int own = vispec::host::lane(), lane = own - static_cast<int>(delta);
  return vispec::host::exchange("__shfl_up_sync", mask, value, lane < (own & -width) ? own : lane, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, VispecWhere where = VispecWhere::current()) {
  const int own = vispec::host::lane(), lane = own + static_cast<int>(delta);
  return vispec::host::exchange("__shfl_down_sync", mask, value, lane > (own | (width - 1)) ? own : lane, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, VispecWhere where = VispecWhere::current()) {
  const int own = vispec::host::lane(), lane = own ^ bits;
  return vispec::host::exchange("__shfl_xor_sync", mask, value, lane > (own | (width - 1)) ? own : lane, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, VispecWhere where = VispecWhere::current()) {
  return vispec::host::ballot(predicate != 0, "__ballot_sync", mask, where);
}
inline int __any_sync(unsigned mask, int predicate, VispecWhere where = VispecWhere::current()) {
  return vispec::host::ballot(predicate != 0, "__any_sync", mask, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, VispecWhere where = VispecWhere::current()) {
  return vispec::host::ballot(predicate == 0, "__all_sync", mask, where) == 0;
}

// ---- Memory ------------------------------------------------------------------------------------------------------

template <class T>
T __ldg(const T* address) {
  return *address;
}

// int, unsigned and unsigned long long, as on a device; no float, which would depend on the order.
template <class T>
concept Atomic = std::is_integral_v<T> && sizeof(T) >= 4;
template <Atomic T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <Atomic T>
T atomicSub(T* address, std::type_identity_t<T> value) {
  return __atomic_fetch_sub(address, value, __ATOMIC_RELAXED);
}
template <Atomic T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}
template <Atomic T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return __atomic_fetch_and(address, value, __ATOMIC_RELAXED);
}
template <Atomic T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
}
template <Atomic T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  __atomic_compare_exchange_n(address, &compare, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return compare;
}
template <Atomic T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  T old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (old < value && !__atomic_compare_exchange_n(address, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
template <Atomic T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  T old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (value < old && !__atomic_compare_exchange_n(address, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// ---- Arithmetic --------------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(x); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(x); }
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>(uint64_t{x} * y >> 32); }

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }

using std::isfinite, std::isinf, std::isnan;
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
#define __expf(x) std::exp(float(x))  // the C library has functions of these names
#define __logf(x) std::log(float(x))

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmin(T(a), T(b));
  return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmax(T(a), T(b));
  return T(a) < T(b) ? T(b) : T(a);
}

// ---- Launches ----------------------------------------------------------------------------------------------------

namespace vispec::cuda {

inline unsigned char* dynamic_shared() { return host::shared_memory(); }

template <class... P>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
                   const std::type_identity_t<P>&... args) {
  const std::tuple<void (*)(P...), std::tuple<P...>> call{kernel, {args...}};
  const auto body = [](const void* call) {
    const auto& [kernel, args] = *static_cast<const std::tuple<void (*)(P...), std::tuple<P...>>*>(call);
    std::apply(kernel, args);
  };
  host::run_grid(grid, block, shared_bytes, body, &call);
  return cudaSuccess;
}

}  // namespace vispec::cuda
