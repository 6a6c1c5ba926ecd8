#include <bit>

#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"
#include "vocabulary.h"

namespace vispec::cuda {
namespace {

constexpr int kThreads = 80;  // two warps and a half
constexpr unsigned kAll = ~0u;

struct Answers {
  uint32_t* next;
  int lane;

  __device__ __forceinline__ void add(uint32_t answer) {
    next[lane] = answer;
    next += 32;
  }
  __device__ __forceinline__ void add(float answer) { add(std::bit_cast<uint32_t>(answer)); }
  template <class T, int kCount>
  __device__ __forceinline__ void add(const T (&answers)[kCount]) {
    for (int i = 0; i < kCount; ++i) add(answers[i]);
  }
};

// The rows of a 16x16 matrix lie as ldmatrix_x4 wants them for an operand A: quarter i is rows 8 * (i % 2), columns
// 8 * (i / 2). Quarters 0 and 2 are then rows 0 to 7 as B transposed, quarters 0 and 1 columns 0 to 7 as B.
template <class T>
__device__ void products(Answers& answers, const uint32_t* matrix) {
  unsigned char* rows = dynamic_shared();
  const int lane = threadIdx.x, row = lane % 8 + 8 * (lane / 8 % 2), col = lane / 16;
  cp_async_16(rows + 16 * lane, matrix + 8 * row + 4 * col, true);
  cp_async_commit();
  cp_async_wait<0>();
  __syncwarp();  // the rows of other lanes
  uint32_t a[4], transposed[4];
  ldmatrix_x4(a, rows + 16 * lane);
  ldmatrix_x4_trans(transposed, rows + 16 * lane);
  __syncwarp();  // the next matrix overwrites the rows
  answers.add(a);
  answers.add(transposed);
  float with_rows[4] = {1, 2, 3, 4}, with_columns[4] = {};
  mma_m16n8k16<T>(with_rows, a, {a[0], a[2]});
  mma_m16n8k16<T>(with_columns, a, {transposed[0], transposed[1]});
  answers.add(with_rows);
  answers.add(with_columns);
}

__device__ void copies(Answers& answers, const float* floats) {
  unsigned char* shared = dynamic_shared();
  const int lane = threadIdx.x;
  cp_async_16(shared + 16 * lane, floats + 4 * (lane % 8), lane % 3 != 0);
  cp_async_commit();
  cp_async_wait<0>();
  answers.add(reinterpret_cast<const uint32_t*>(shared + 16 * lane)[lane % 4]);
  answers.add(load_16_once(floats + 4 * (lane % 8)).z);
  __syncwarp();
}

__device__ void warp_words(Answers& answers, float x) {
  const int lane = threadIdx.x;
  answers.add(exp2_approx(x));
  answers.add(pack2<__half>(x, 2 * x));
  answers.add(pack2<__nv_bfloat16>(x, 2 * x));
  answers.add(__shfl_sync(kAll, x, lane + 3));
  answers.add(__shfl_sync(kAll, x, 5, 8));
  answers.add(__shfl_up_sync(kAll, x, 3, 16));
  answers.add(__shfl_down_sync(kAll, x, 3, 16));
  answers.add(__shfl_xor_sync(kAll, x, 9));
  answers.add(__shfl_xor_sync(kAll, x, 12, 8));
  answers.add(lane < 16 ? __shfl_sync(0xffffu, x, 7) : __shfl_sync(0xffff0000u, x, 20));
  answers.add(__ballot_sync(kAll, x > 0));
  answers.add(static_cast<uint32_t>(2 * __any_sync(kAll, x > 2) + __all_sync(kAll, x > -100)));
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  answers.add(static_cast<uint32_t>(__popc(bits) + 64 * __clz(bits) + 4096 * __ffs(bits)));
}

__global__ void __launch_bounds__(kThreads) vocabulary_kernel(const VocabularyParams p) {
  const int thread = threadIdx.x;
  const int yes = __syncthreads_count(thread % 3 == 0), any = __syncthreads_or(thread == 79);
  atomicAdd(&p.counters[0], 2);
  atomicMax(&p.counters[1], thread);
  atomicOr(&p.counters[2], 1 << thread % 32);
  atomicMin(&p.counters[3], -thread);
  atomicCAS(&p.counters[4], 0, 7);
  atomicAnd(&p.counters[5], thread);
  if (thread >= 32) return;
  Answers answers{p.answers, thread};
  products<__half>(answers, p.fp16);
  products<__nv_bfloat16>(answers, p.bf16);
  copies(answers, p.floats);
  warp_words(answers, p.floats[thread]);
  answers.add(static_cast<uint32_t>(yes + 1000 * any));
  answers.add(reread_thread());
}

}  // namespace

cudaError_t vocabulary(const VocabularyParams& p, cudaStream_t stream) {
  return launch(vocabulary_kernel, dim3(1), kThreads, 512, stream, p);
}

}  // namespace vispec::cuda
