// Floor: the logits are read once, 19.4 MB at N = 64, V = 151,936 in bf16: 5.8 us at 3.35 TB/s, less from L2. An argmax
// is that and a merge. A draw reads them twice, the second time only groups of tokens that can win, and makes ten
// rounds of Philox for every four tokens of those: about 25 instructions a token, 8 us for all 9.7 million on 132
// processors.
#include "common/philox.h"
#include "common/select_tokens.h"
#include "common/tree_walk.h"
#include "cuda/launch.cuh"
#include "cuda/logits.cuh"
#include "cuda/operators.h"
#include "cuda/select_tokens_filter.cuh"
#include "cuda/select_tokens_row.cuh"

namespace vispec::cuda {
namespace {

constexpr int kThreads = 256;  // 32 tokens each: four loads of 16 bytes under way in bf16, eight in fp32
constexpr int kWarps = kThreads / 32;
constexpr int kTokensPerThread = kSelectChunk / kThreads;
constexpr unsigned kAllLanes = 0xffffffffu;

template <class T>
constexpr int kLoads = kTokensPerThread / kPerLoad<T>;

// The largest key of the block, in the first thread. `shared`: kWarps keys. All threads of the block.
__device__ __forceinline__ uint64_t max_of_block(uint64_t key, uint64_t* shared) {
  key = max_of_warp(key);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = key;
  __syncthreads();  // every warp's key is there
  for (int warp = 1; threadIdx.x == 0 && warp < kWarps; ++warp) key = shared[warp] > key ? shared[warp] : key;
  return key;
}

// The largest of a thread's values, which lie kLoads steps apart; NaN is the largest, of equals the first counts.
template <int kSteps, int kWidth>
__device__ __forceinline__ uint64_t best_key(const float (&x)[kSteps][kWidth], int first) {
  float best = kMinusInfinity;
  int token = first;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      if (best == best && !(x[i][j] <= best)) best = x[i][j], token = first + i * kThreads * kWidth + j;
    }
  }
  return argmax_key(best, token);
}

// ---- Argmax ----

// Grid (chunks, N, B).
template <class T>
__global__ void __launch_bounds__(kThreads) select_tokens_argmax_kernel(const SelectArgs a) {
  constexpr int kWidth = kPerLoad<T>;
  auto* keys = reinterpret_cast<uint64_t*>(dynamic_shared());
  const int chunk = blockIdx.x, node = blockIdx.y, seq = blockIdx.z;
  const int first = chunk * kSelectChunk + threadIdx.x * kWidth;
  float x[kLoads<T>][kWidth];
  logits_row<T>(a.p, seq, node, a.whole).template load<kLoads<T>>(first, kThreads * kWidth, x);
  const uint64_t best = max_of_block(best_key(x, first), keys);
  const int64_t row = int64_t{seq} * a.p.num_nodes + node;
  if (threadIdx.x == 0) a.scratch.best[row * a.num_chunks + chunk] = best;
}

// ---- Values: what a draw has to know of every chunk ----

// Grid (N, B): the tokens of the history and of the path from the root to the node.
__global__ void __launch_bounds__(kThreads) select_tokens_used_kernel(const SelectArgs a) {
  auto* parents = reinterpret_cast<int32_t*>(dynamic_shared());
  const int node = blockIdx.x, seq = blockIdx.y;
  const int64_t tree = int64_t{seq} * a.p.num_nodes;
  uint32_t* used = a.scratch.used + (tree + node) * a.num_words;
  const int32_t* seen = a.p.seen + int64_t{seq} * a.num_words;
  for (int word = threadIdx.x; word < a.num_words; word += kThreads) used[word] = seen[word];
  if (threadIdx.x <= node) parents[threadIdx.x] = a.p.parents[tree + threadIdx.x];
  __syncthreads();  // the path's bits go into words that are there
  if (threadIdx.x != 0) return;
  for (int above = node; above >= 0; above = parent_of(parents, above)) {
    const int64_t token = a.p.tokens[tree + above];
    if (0 <= token && token < a.p.vocab_size) used[token / 32] |= 1u << (token % 32);
  }
}

// The largest value of each group, whose tokens lie side by side in a few lanes.
template <int kWidth>
__device__ __forceinline__ void write_group_max(const SelectArgs& a, int64_t row, const float (&x)[kWidth], int first) {
  float max = x[0];
#pragma unroll
  for (int i = 1; i < kWidth; ++i) max = fmaxf(max, x[i]);
#pragma unroll
  for (int step = kSelectGroup / kWidth / 2; step > 0; step /= 2) {
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, step));
  }
  if (first % kSelectGroup == 0 && first < a.p.vocab_size) {
    a.scratch.group_max[row * a.num_groups + first / kSelectGroup] = max;
  }
}

// Grid (chunks, N, B).
template <class T>
__global__ void __launch_bounds__(kThreads) select_tokens_values_kernel(const SelectArgs a) {
  constexpr int kWidth = kPerLoad<T>;
  auto* keys = reinterpret_cast<uint64_t*>(dynamic_shared());
  auto* sums = reinterpret_cast<float*>(keys + kWarps + 1);
  const int chunk = blockIdx.x, node = blockIdx.y, seq = blockIdx.z;
  const int first = chunk * kSelectChunk + threadIdx.x * kWidth;
  const int64_t row = int64_t{seq} * a.p.num_nodes + node, part = row * a.num_chunks + chunk;
  const SelectRow<T> values(a, seq, node);
  float x[kLoads<T>][kWidth];
  values.logits.template load<kLoads<T>>(first, kThreads * kWidth, x);
#pragma unroll
  for (int i = 0; i < kLoads<T>; ++i) values.prepare(first + i * kThreads * kWidth, x[i]);

  const uint64_t best = max_of_block(best_key(x, first), keys);
  if (threadIdx.x == 0) keys[kWarps] = a.scratch.best[part] = best;
  if (values.temperature == 0) return;  // the whole block: there is nothing to draw
#pragma unroll
  for (int i = 0; i < kLoads<T>; ++i) write_group_max(a, row, x[i], first + i * kThreads * kWidth);
  if (a.p.top_p == nullptr || !(a.p.top_p[seq] < 1)) return;

  __syncthreads();  // the chunk's largest is known to all
  const float max = score_of(keys[kWarps]);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kLoads<T>; ++i) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum += expf(x[i][j] - max);
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();  // every warp's sum is there
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kWarps; ++warp) sum += sums[warp];
  a.scratch.mass[part] = sum;
}

// ---- The draw ----

struct Draw {
  double score;
  int token;
};

__device__ __forceinline__ Draw better(const Draw& a, const Draw& b) {
  return b.score > a.score || (b.score == a.score && b.token < a.token) ? b : a;
}

__device__ __forceinline__ Draw best_of_warp(Draw draw) {
  for (int step = 16; step > 0; step /= 2) {
    const Draw other{__shfl_xor_sync(kAllLanes, draw.score, step), __shfl_xor_sync(kAllLanes, draw.token, step)};
    draw = better(draw, other);
  }
  return draw;
}

// What a row's draw goes by.
struct DrawRule {
  uint64_t seed;
  uint32_t position, row;
  float max, boundary;
  double min_p;

  __device__ DrawRule(const SelectArgs& a, int seq, int node, float max) : max(max) {
    const int64_t at = int64_t{seq} * a.p.num_nodes + node;
    seed = static_cast<uint64_t>(a.p.seed[seq]);
    position = static_cast<uint32_t>(a.p.positions[at]);
    row = static_cast<uint32_t>(a.p.row != nullptr ? a.p.row[seq] : seq);
    boundary = a.scratch.boundary != nullptr ? a.scratch.boundary[at] : kMinusInfinity;
    min_p = a.p.min_p != nullptr ? a.p.min_p[seq] : 0;
  }

  __device__ __forceinline__ PhiloxWords words(int token) const {
    return philox({{static_cast<uint32_t>(token) / 4, position, row, 0}}, seed);
  }

  // Whether a value this large can win; no noise is needed to tell.
  __device__ __forceinline__ bool in_reach(float x, const Draw& best) const {
    return x >= boundary && x - max + kLargestNoise >= static_cast<float>(best.score - max);
  }

  __device__ __forceinline__ bool may_win(float x, uint32_t word, const Draw& best) const {
    return x >= boundary && may_reach(static_cast<float>(best.score - max) - (x - max), word);
  }
};

// The word of `token` among the four of its counter, without an array that is indexed at run time.
__device__ __forceinline__ uint32_t word_of(const PhiloxWords& words, int token) {
  const uint32_t low = token % 2 == 0 ? words.word[0] : words.word[1];
  const uint32_t high = token % 2 == 0 ? words.word[2] : words.word[3];
  return token % 4 < 2 ? low : high;
}

// The best of a thread's values side by side. Few of them may win, so that the logarithms in fp64 are one copy of code,
// which takes its token out of the registers by selects; unrolled they would crowd the rest out.
template <int kWidth>
__device__ __forceinline__ Draw best_of_vector(const DrawRule& rule, const float (&x)[kWidth], int first,
                                               int vocab_size, Draw best) {
  uint32_t word[kWidth];
  unsigned open = 0;
#pragma unroll
  for (int i = 0; i < kWidth; i += 4) {
    const PhiloxWords words = rule.words(first + i);
#pragma unroll
    for (int j = i; j < i + 4; ++j) {
      word[j] = words.word[j - i];
      if (first + j < vocab_size && rule.may_win(x[j], word[j], best)) open |= 1u << j;
    }
  }
  for (; open != 0; open &= open - 1) {
    const int chosen = __ffs(static_cast<int>(open)) - 1;
    float value = x[0];
    uint32_t noise = word[0];
#pragma unroll
    for (int j = 1; j < kWidth; ++j) {
      if (j == chosen) value = x[j], noise = word[j];
    }
    if (!rule.may_win(value, noise, best)) continue;
    if (exp(static_cast<double>(value) - rule.max) < rule.min_p) continue;
    best = better(best, {noisy_score(value, noise), first + chosen});
  }
  return best;
}

// Grid (chunks, N, B). Every thread begins with the draw of the row's largest value, which one calculates: no filter
// drops it, and it rules out most others without a logarithm.
template <class T>
__global__ void __launch_bounds__(kThreads) select_tokens_draw_kernel(const SelectArgs a) {
  constexpr int kWidth = kPerLoad<T>;
  auto* scores = reinterpret_cast<double*>(dynamic_shared());
  double& first_score = scores[kWarps];
  auto* tokens = reinterpret_cast<int*>(scores + kWarps + 1);
  const int chunk = blockIdx.x, node = blockIdx.y, seq = blockIdx.z;
  const int64_t row = int64_t{seq} * a.p.num_nodes + node, part = row * a.num_chunks + chunk;
  const SelectRow<T> values(a, seq, node);
  const uint64_t top = best_of_row(a, row);
  if (values.temperature == 0 || score_of(top) == kMinusInfinity) return;  // the merge needs no draw
  const DrawRule rule(a, seq, node, score_of(top));
  const int top_token = static_cast<int>(index_of(top));
  if (threadIdx.x == 0) first_score = noisy_score(rule.max, word_of(rule.words(top_token), top_token));
  __syncthreads();  // the first draw is there
  Draw best{first_score, top_token};

  const float* group_max = a.scratch.group_max + row * a.num_groups;
  for (int i = 0; i < kLoads<T>; ++i) {
    const int first = chunk * kSelectChunk + (i * kThreads + threadIdx.x) * kWidth;
    const int before = best.token;
    if (first < a.p.vocab_size && rule.in_reach(group_max[first / kSelectGroup], best)) {
      float x[kWidth];
      values.values(first, x);
      best = best_of_vector(rule, x, first, a.p.vocab_size, best);
    }
    // What one lane has found spares the others, which in a flat row would all go on to beat draws of their own; and
    // all lanes end with the warp's best.
    if (__any_sync(kAllLanes, best.token != before)) best = best_of_warp(best);
  }
  if (threadIdx.x % 32 == 0) {
    scores[threadIdx.x / 32] = best.score;
    tokens[threadIdx.x / 32] = best.token;
  }
  __syncthreads();  // every warp's draw is there
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kWarps; ++warp) best = better(best, {scores[warp], tokens[warp]});
  a.scratch.score[part] = best.score;
  a.scratch.drawn[part] = best.token;
}

// ---- The merge ----

// Grid (rows / kWarps): a warp a row.
__global__ void __launch_bounds__(kThreads) select_tokens_merge_kernel(const SelectArgs a) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (row >= int64_t{a.p.batch} * a.p.num_nodes) return;
  const uint64_t top = best_of_row(a, row);
  int token = static_cast<int>(index_of(top));
  if (a.p.temperature != nullptr && a.p.temperature[row / a.p.num_nodes] != 0) {
    if (score_of(top) == kMinusInfinity) {
      token = 0;
    } else {
      Draw best{kMinusInfinity, token};
      for (int chunk = threadIdx.x % 32; chunk < a.num_chunks; chunk += 32) {
        const int64_t part = row * a.num_chunks + chunk;
        best = better(best, {a.scratch.score[part], a.scratch.drawn[part]});
      }
      token = best_of_warp(best).token;
    }
  }
  if (threadIdx.x % 32 == 0) a.p.selected[row] = token;
}

template <class T>
cudaError_t launch_draw(const SelectArgs& a, dim3 chunks, dim3 rows, cudaStream_t stream) {
  constexpr size_t kShared = (kWarps + 1) * sizeof(uint64_t) + kWarps * sizeof(float);
  cudaError_t error = cudaSuccess;
  if (a.scratch.used != nullptr) {
    error = launch(select_tokens_used_kernel, rows, kThreads, kMaxNodes * sizeof(int32_t), stream, a);
  }
  if (error == cudaSuccess) error = launch(select_tokens_values_kernel<T>, chunks, kThreads, kShared, stream, a);
  if (error == cudaSuccess && a.scratch.boundary != nullptr) {
    error = launch(select_tokens_filter_kernel<T>, rows, kFilterThreads, sizeof(FilterShared), stream, a);
  }
  if (error == cudaSuccess) error = launch(select_tokens_draw_kernel<T>, chunks, kThreads, kShared, stream, a);
  return error;
}

}  // namespace

cudaError_t select_tokens(const SelectTokensParams& p, void* workspace, cudaStream_t stream) {
  if (p.batch == 0) return cudaSuccess;
  SelectArgs a{p, {}, select_chunks(p), select_groups(p), select_words(p), rows_are_whole(p)};
  select_tokens_scratch(p, static_cast<char*>(workspace), a.scratch);
  const dim3 chunks(a.num_chunks, p.num_nodes, p.batch), rows(p.num_nodes, p.batch);
  const cudaError_t error = dispatch_dtype(p.dtype, [&]<class T>() {
    if (p.temperature != nullptr) return launch_draw<T>(a, chunks, rows, stream);
    return launch(select_tokens_argmax_kernel<T>, chunks, kThreads, kWarps * sizeof(uint64_t), stream, a);
  });
  if (error != cudaSuccess) return error;
  const int64_t num_rows = int64_t{p.batch} * p.num_nodes;
  const dim3 grid(static_cast<unsigned>((num_rows + kWarps - 1) / kWarps));
  return launch(select_tokens_merge_kernel, grid, kThreads, 0, stream, a);
}

}  // namespace vispec::cuda
