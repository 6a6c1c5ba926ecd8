// The rate of the tensor-core instruction that tree_attention uses, mma.sync m16n8k16 in bf16 with fp32 accumulation:
// what its flops cost at least. Prints TFLOP/s. nvcc -std=c++20 -O3 -arch=native -Icsrc benchmarks/gpu/mma_rate.cu
#include <cstdio>

#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"

namespace vispec::cuda {
namespace {

constexpr int kThreads = 256, kChains = 8, kSteps = 4096;  // independent chains hide the instruction's latency

__global__ void __launch_bounds__(kThreads) mma_rate_kernel(float* out) {
  float d[kChains][4] = {};
  const uint32_t a[4] = {threadIdx.x, 1, 2, 3}, b[2] = {threadIdx.x, 4};
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int chain = 0; chain < kChains; ++chain) mma_m16n8k16<__nv_bfloat16>(d[chain], a, b);
  }
  float sum = 0;
  for (int chain = 0; chain < kChains; ++chain) sum += d[chain][0] + d[chain][1] + d[chain][2] + d[chain][3];
  out[blockIdx.x * kThreads + threadIdx.x] = sum;
}

int run() {
  int device = 0, sms = 0;
  cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
  const int blocks = 4 * sms;
  float* out = nullptr;
  if (cudaMalloc(&out, sizeof(float) * blocks * kThreads) != cudaSuccess) return 1;
  cudaEvent_t start, end;
  cudaEventCreate(&start);
  cudaEventCreate(&end);
  float best = 1e9f;
  for (int round = 0; round < 10; ++round) {
    cudaEventRecord(start);
    if (launch(mma_rate_kernel, blocks, kThreads, 0, nullptr, out) != cudaSuccess) return 1;
    cudaEventRecord(end);
    cudaEventSynchronize(end);
    float ms = 0;
    cudaEventElapsedTime(&ms, start, end);
    best = ms < best ? ms : best;
  }
  constexpr double kFlops = 2.0 * 16 * 8 * 16;
  std::printf("%.1f\n", kFlops * kChains * kSteps * blocks * (kThreads / 32) / (best * 1e-3) / 1e12);
  return cudaGetLastError() == cudaSuccess ? 0 : 1;
}

}  // namespace
}  // namespace vispec::cuda

int main() { return vispec::cuda::run(); }
