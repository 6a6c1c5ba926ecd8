// Marks functions that CPU code and CUDA kernels share.
#pragma once

#ifdef __CUDACC__
#define VISPEC_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define VISPEC_HOST_DEVICE inline
#endif
