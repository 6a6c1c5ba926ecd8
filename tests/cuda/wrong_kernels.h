// Small kernels, each with one mistake that the test instrument must report.
#pragma once

#include <driver_types.h>

namespace vispec {

struct WrongKernelsParams {
  int kernel;      // which
  const float* x;  // [64]
  float* out;      // [64]
};

namespace cuda {
cudaError_t wrong_kernels(const WrongKernelsParams& p, cudaStream_t stream);
}

}  // namespace vispec
