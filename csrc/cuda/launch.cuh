// Starts kernels and hands them their shared memory: the only `<<<>>>`. tests/cuda_host has a header of the same name
// that runs the same kernels on a CPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

namespace vispec::cuda {

// The block's shared memory, as much as the launch asked for. Kernels use no other: a static array would keep the
// values of the block before, and tests could not poison it.
__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char vispec_shared[];
  return vispec_shared;
}

// Always all that there is, not what one launch needs: another thread may be about to launch the same kernel with more.
inline cudaError_t allow_all_shared(const void* kernel) {
  int device = 0, bytes = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  return error;
}

// The arguments convert to the kernel's parameter types; type_identity keeps them out of the deduction.
template <class... P>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   const std::type_identity_t<P>&... args) {
  constexpr size_t kUnasked = 48 << 10;  // more has to be asked for, kernel by kernel
  if (shared_bytes > kUnasked) {
    const cudaError_t error = allow_all_shared(reinterpret_cast<const void*>(kernel));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, block, shared_bytes, stream>>>(args...);
  return cudaGetLastError();
}

}  // namespace vispec::cuda
