// Every wrapper of ptx.cuh and every word of CUDA that differs between a device and the test instrument, once: the same
// kernel runs on both, and the answers are compared.
#pragma once

#include <driver_types.h>

#include <cstdint>

namespace vispec {

constexpr int kAnswers = 49;

struct VocabularyParams {
  const uint32_t* fp16;  // [16, 8] pairs: a 16x16 matrix of small whole numbers
  const uint32_t* bf16;  // [16, 8] the same numbers
  const float* floats;   // [32]
  uint32_t* answers;     // [kAnswers, 32] what each lane of warp 0 got
  int* counters;         // [6] 0 before
};

namespace cuda {
cudaError_t vocabulary(const VocabularyParams& p, cudaStream_t stream);
}

}  // namespace vispec
