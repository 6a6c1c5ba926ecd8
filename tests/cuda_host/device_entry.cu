// The way into a launcher from Python on a device: what went wrong, or null.
#include <cuda_runtime.h>

#include VISPEC_HEADER

extern "C" __attribute__((visibility("default"))) const char* vispec_run(const void* params) {
  cudaError_t error = vispec::cuda::VISPEC_LAUNCHER(*static_cast<const vispec::VISPEC_PARAMS*>(params), nullptr);
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
