// Floor: the logits are read once. A row is cut into chunks of fixed size, whatever the number of threads, so that one
// row keeps several threads busy and equal calls give equal bits; the chunks' sums and best tokens are merged in order.
#include "common/expand_frontier.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <vector>

#include "common/half.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/vector_math.h"

namespace vispec::cpu {

constexpr int kChunk = 16384;        // tokens; 4 to 10 us of work
constexpr int kGrainTokens = 32768;  // for less, waking a thread costs more than it saves
constexpr int kBlock = 256;          // tokens held as floats in the first-level cache
constexpr int kGroup = 16;           // tokens tested at once against the worst of the best

// The loops over a block, of the best instruction set.
template <class T>
struct BlockKernel {
  float (*load)(const T* logits, int n, float* x);
  float (*sum_exp)(const float* x, int n, float max);
  uint32_t (*groups_above)(const float* x, float bound);
};

}  // namespace vispec::cpu

#define VISPEC_KERNEL "cpu/expand_frontier_kernel.h"
#include "cpu/foreach_isa.h"

namespace vispec::cpu {
namespace {

template <class T>
BlockKernel<T> kernel_for() {
#if defined(__x86_64__)
  if (isa() == Isa::kV4) return v4::block_kernel<T>();
  if (isa() == Isa::kV3) return v3::block_kernel<T>();
#endif
  return base::block_kernel<T>();
}

// The best tokens of a chunk and its log-sum-exp so far, as max + log(sum).
struct Part {
  float max = kMinusInfinity;
  double sum = 0;
  std::vector<uint64_t> best;  // a heap, the worst on top
};

void replace_worst(std::vector<uint64_t>& best, uint64_t rank) {
  std::pop_heap(best.begin(), best.end(), std::greater<>());
  best.back() = rank;
  std::push_heap(best.begin(), best.end(), std::greater<>());
}

// Tokens come in ascending order, so one that equals the worst of the best stays behind it.
template <class T>
void keep_best(const BlockKernel<T>& kernel, const float* x, int first_token, int n, size_t top_k,
               std::vector<uint64_t>& best) {
  int i = 0;
  for (; i < n && best.size() < top_k; ++i) {
    best.push_back(rank_key(x[i], first_token + i));
    std::push_heap(best.begin(), best.end(), std::greater<>());
  }
  if (i == n) return;
  for (uint32_t groups = kernel.groups_above(x, score_of(best.front())); groups != 0; groups &= groups - 1) {
    const int group = std::countr_zero(groups) * kGroup;
    for (int j = std::max(i, group); j < std::min(n, group + kGroup); ++j) {
      if (x[j] > score_of(best.front())) replace_worst(best, rank_key(x[j], first_token + j));
    }
  }
}

template <class T>
void scan(const T* logits, int begin, int end, int top_k, Part& part) {
  const BlockKernel<T> kernel = kernel_for<T>();
  alignas(64) float x[kBlock];
  std::fill_n(x, kBlock, kMinusInfinity);
  part.best.reserve(std::min(top_k, end - begin));
  for (int first = begin; first < end; first += kBlock) {
    const int n = std::min(kBlock, end - first);
    const float largest = kernel.load(logits + first, n, x);
    if (largest > part.max) {
      part.sum *= std::exp(static_cast<double>(part.max) - largest);
      part.max = largest;
    }
    if (largest > kMinusInfinity) part.sum += kernel.sum_exp(x, n, part.max);
    const bool full = part.best.size() == static_cast<size_t>(top_k);
    if (!full || largest > score_of(part.best.front())) keep_best(kernel, x, first, n, top_k, part.best);
  }
}

void scan(const ExpandFrontierParams& p, int64_t row, int begin, int end, Part& part) {
  const char* logits = p.logits + row / p.num_nodes * p.logits_seq + row % p.num_nodes * p.logits_node;
  switch (p.dtype) {
    case DType::kFloat32:
      return scan(reinterpret_cast<const float*>(logits), begin, end, p.top_k, part);
    case DType::kFloat16:
      return scan(reinterpret_cast<const Half*>(logits), begin, end, p.top_k, part);
    case DType::kBFloat16:
      return scan(reinterpret_cast<const BFloat16*>(logits), begin, end, p.top_k, part);
  }
}

double log_sum_exp(const Part* parts, int count) {
  float max = kMinusInfinity;
  for (int i = 0; i < count; ++i) max = std::max(max, parts[i].max);
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += parts[i].sum * std::exp(static_cast<double>(parts[i].max) - max);
  return max + std::log(sum);
}

// The K best of all ranks to the front, in order.
void rank_best(std::vector<uint64_t>& ranks, int top_k) {
  std::partial_sort(ranks.begin(), ranks.begin() + top_k, ranks.end(), std::greater<>());
}

void write_candidates(const ExpandFrontierParams& p, int64_t row, const Part* parts, int count) {
  const double lse = log_sum_exp(parts, count);
  std::vector<uint64_t> ranks;
  for (int i = 0; i < count; ++i) ranks.insert(ranks.end(), parts[i].best.begin(), parts[i].best.end());
  rank_best(ranks, p.top_k);
  for (int r = 0; r < p.top_k; ++r) {
    p.tokens[row * p.top_k + r] = std::isfinite(lse) ? index_of(ranks[r]) : r;
    p.candidate_scores[row * p.top_k + r] =
        std::isfinite(lse) ? child_score(p.scores[row], score_of(ranks[r]), lse) : kMinusInfinity;
  }
}

void write_frontier(const ExpandFrontierParams& p, int64_t seq) {
  const int num_candidates = p.num_nodes * p.top_k;
  const int64_t in = seq * num_candidates, out = seq * p.top_k;
  std::vector<uint64_t> ranks(num_candidates);
  for (int c = 0; c < num_candidates; ++c) ranks[c] = rank_key(p.candidate_scores[in + c], c);
  rank_best(ranks, p.top_k);
  for (int r = 0; r < p.top_k; ++r) {
    const int candidate = index_of(ranks[r]);
    p.frontier[out + r] = candidate;
    p.frontier_tokens[out + r] = p.tokens[in + candidate];
    p.frontier_scores[out + r] = p.candidate_scores[in + candidate];
  }
}

}  // namespace

void expand_frontier(const ExpandFrontierParams& p) {
  const int64_t rows = int64_t{p.batch} * p.num_nodes;
  const int chunks = (p.vocab_size + kChunk - 1) / kChunk;
  std::vector<Part> parts(rows * chunks);
  const int64_t grain = std::max(1, kGrainTokens / std::min(kChunk, p.vocab_size));
  parallel_for(rows * chunks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int first = static_cast<int>(i % chunks) * kChunk;
      scan(p, i / chunks, first, std::min(p.vocab_size, first + kChunk), parts[i]);
    }
  });
  for (int64_t row = 0; row < rows; ++row) write_candidates(p, row, &parts[row * chunks], chunks);
  for (int64_t seq = 0; seq < p.batch; ++seq) write_frontier(p, seq);
}

}  // namespace vispec::cpu
