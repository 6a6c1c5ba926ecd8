// Floor: the logits are read once. An argmax does no more. A draw first writes the penalised, cooled logits of a row as
// floats; filters and noise then touch only blocks that can matter, judged by their maxima.
#include "common/select_tokens.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "common/check.h"
#include "common/half.h"
#include "common/philox.h"
#include "common/tree_walk.h"
#include "cpu/isa.h"
#include "cpu/kept_values.h"
#include "cpu/parallel.h"
#include "cpu/vector_math.h"

namespace vispec::cpu {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// What a draw's random words depend on, besides the token.
struct DrawKey {
  uint64_t seed;
  uint32_t position, row;
};

// The loops over a row's values, of the best instruction set.
template <class T>
struct RowKernel {
  float (*largest)(const T* x, int n);  // NaN where there is one
  void (*convert)(const T* logits, int n, float* x);
  float (*cool)(float* x, float temperature);  // a block; returns its largest
  Mass mass;
  // The words of the block of tokens from `first` on; false where none of its values reaches the best score so far.
  bool (*draw)(const float* x, float max, float best_above_max, const DrawKey& key, int first, uint32_t* words);
};

}  // namespace vispec::cpu

#define VISPEC_KERNEL "cpu/select_tokens_kernel.h"
#include "cpu/foreach_isa.h"

namespace vispec::cpu {
namespace {

constexpr int kGrainTokens = 32768;  // 5 us or more of work; waking a thread takes about as long
constexpr int kArgmaxBlock = 1024;   // tokens in the first-level cache, searched again where the largest may lie

template <class T>
const RowKernel<T>& kernel_for() {
  static const RowKernel<T> kernel = [] {
#if defined(__x86_64__)
    if (isa() == Isa::kV4) return v4::row_kernel<T>();
    if (isa() == Isa::kV3) return v3::row_kernel<T>();
#endif
    return base::row_kernel<T>();
  }();
  return kernel;
}

// ---- Argmax ----

// The first of the largest; NaN counts as the largest of all.
template <class T>
int argmax(const T* x, int n) {
  float best = kMinusInfinity;
  int best_block = 0;
  for (int first = 0; first < n && best == best; first += kArgmaxBlock) {
    const float value = kernel_for<T>().largest(x + first, std::min(kArgmaxBlock, n - first));
    if (!(value <= best)) best = value, best_block = first;
  }
  int i = best_block;
  if (best == best) {
    while (to_float(x[i]) != best) ++i;
  } else {
    while (to_float(x[i]) == to_float(x[i])) ++i;
  }
  return i;
}

// ---- A row's values ----

struct Row {
  explicit Row(int vocab_size)
      : values((vocab_size + kValueBlock - 1) / kValueBlock * kValueBlock, kMinusInfinity),
        block_max(values.size() / kValueBlock) {}
  std::vector<float> values;  // in whole blocks; what lies beyond the vocabulary is minus infinity
  std::vector<float> block_max;
  float max = kMinusInfinity;
  std::vector<float> kept;  // the filters' workspace
};

void cool_row(Row& row, float temperature) {
  row.max = kMinusInfinity;
  for (size_t block = 0; block < row.block_max.size(); ++block) {
    row.block_max[block] = kernel_for<float>().cool(&row.values[block * kValueBlock], temperature);
    row.max = std::max(row.max, row.block_max[block]);
  }
}

// Each token of the history and of the node's path once.
void penalise_used(const SelectTokensParams& p, int64_t seq, int node, float* x) {
  const float penalty = p.repetition_penalty[seq];
  const int32_t* seen = p.seen + seq * ((p.vocab_size + 31) / 32);
  const auto in_history = [&](int64_t token) { return seen[token / 32] >> (token % 32) & 1; };
  for (int64_t token = 0; token < p.vocab_size; token += 32) {
    for (uint32_t bits = seen[token / 32]; bits != 0; bits &= bits - 1) {
      const int64_t used = token + std::countr_zero(bits);
      if (used < p.vocab_size) x[used] = penalise(x[used], penalty);
    }
  }
  const int64_t* tokens = p.tokens + seq * p.num_nodes;
  const int32_t* parents = p.parents + seq * p.num_nodes;
  for (int above = node; above >= 0; above = parent_of(parents, above)) {
    bool counted = in_history(tokens[above]);
    for (int below = node; below != above && !counted; below = parent_of(parents, below)) {
      counted = tokens[below] == tokens[above];
    }
    if (!counted) x[tokens[above]] = penalise(x[tokens[above]], penalty);
  }
}

// ---- The draw ----

struct Draw {
  int token;
  double score;
};

// The best noisy score among the values from `boundary` on that min_p keeps. The token of the largest value is scored
// first: no filter drops it, and it rules out most blocks.
int draw(const SelectTokensParams& p, int64_t seq, int node, const Row& row, float boundary) {
  const DrawKey key{.seed = static_cast<uint64_t>(p.seed[seq]),
                    .position = static_cast<uint32_t>(p.positions[seq * p.num_nodes + node]),
                    .row = static_cast<uint32_t>(p.row != nullptr ? p.row[seq] : seq)};
  const double min_p = p.min_p != nullptr ? p.min_p[seq] : 0;
  const float* values = row.values.data();

  const int top = argmax(values, p.vocab_size);
  const PhiloxWords words = philox({{static_cast<uint32_t>(top) / 4, key.position, key.row, 0}}, key.seed);
  Draw best{top, noisy_score(row.max, words.word[top % 4])};
  for (int first = 0; first < p.vocab_size; first += kValueBlock) {
    const float block_max = row.block_max[first / kValueBlock];
    const float best_above_max = static_cast<float>(best.score - row.max);
    if (block_max < boundary || block_max - row.max + kLargestNoise < best_above_max) continue;
    uint32_t noise[kValueBlock];
    if (!kernel_for<float>().draw(values + first, row.max, best_above_max, key, first, noise)) continue;
    for (int i = 0; i < std::min(kValueBlock, p.vocab_size - first); ++i) {
      const float x = values[first + i];
      if (x < boundary || !may_reach(best_above_max - (x - row.max), noise[i])) continue;
      if (std::exp(static_cast<double>(x) - row.max) < min_p) continue;
      const Draw drawn{first + i, noisy_score(x, noise[i])};
      if (drawn.score > best.score || (drawn.score == best.score && drawn.token < best.token)) best = drawn;
    }
  }
  return best.token;
}

// The value from which on top_k and top_p keep.
float kept_from(const SelectTokensParams& p, int64_t seq, Row& row) {
  const int top_k = p.top_k != nullptr ? p.top_k[seq] : 0;
  const double top_p = p.top_p != nullptr ? p.top_p[seq] : 1;
  const Values values{row.values.data(), row.block_max.data(), p.vocab_size, row.max, kernel_for<float>().mass};
  float boundary = kMinusInfinity;
  if (0 < top_k && top_k < p.vocab_size) boundary = kth_largest(values, top_k, row.kept);
  if (top_p < 1) boundary = top_p_boundary(values, boundary, top_p, row.kept);
  return boundary;
}

template <class T>
int select(const SelectTokensParams& p, const T* logits, int64_t seq, int node, Row& row) {
  if (p.temperature == nullptr) return argmax(logits, p.vocab_size);
  kernel_for<T>().convert(logits, p.vocab_size, row.values.data());
  if (p.repetition_penalty != nullptr && p.repetition_penalty[seq] != 1) {
    penalise_used(p, seq, node, row.values.data());
  }
  if (p.temperature[seq] == 0) return argmax(row.values.data(), p.vocab_size);
  cool_row(row, p.temperature[seq]);
  if (row.max == kMinusInfinity) return 0;
  return draw(p, seq, node, row, kept_from(p, seq, row));
}

int select(const SelectTokensParams& p, int64_t seq, int node, Row& row) {
  const char* logits = p.logits + seq * p.logits_seq + node * p.logits_node;
  switch (p.dtype) {
    case DType::kFloat32:
      return select(p, reinterpret_cast<const float*>(logits), seq, node, row);
    case DType::kFloat16:
      return select(p, reinterpret_cast<const Half*>(logits), seq, node, row);
    case DType::kBFloat16:
      return select(p, reinterpret_cast<const BFloat16*>(logits), seq, node, row);
  }
  return 0;
}

// ---- Checks of values ----

template <class T, class Condition>
void check_option(const char* arg, const T* values, int batch, const char* expected, const Condition& fits) {
  for (int seq = 0; values != nullptr && seq < batch; ++seq) {
    VISPEC_CHECK(fits(values[seq]), arg, ": expected ", expected, ", got ", values[seq], " for sequence ", seq);
  }
}

void check(const SelectTokensParams& p) {
  const auto finite = [](float x) { return x < std::numeric_limits<float>::infinity(); };
  check_option("temperature", p.temperature, p.batch, "a finite number from 0 on",
               [&](float x) { return x >= 0 && finite(x); });
  check_option("top_k", p.top_k, p.batch, "a number from 0 on", [](int32_t x) { return x >= 0; });
  check_option("top_p", p.top_p, p.batch, "a number from 0 on", [](float x) { return x >= 0; });
  check_option("min_p", p.min_p, p.batch, "a number from 0 to 1", [](float x) { return x >= 0 && x <= 1; });
  check_option("repetition_penalty", p.repetition_penalty, p.batch, "a finite number above 0",
               [&](float x) { return x > 0 && finite(x); });
  if (p.repetition_penalty == nullptr) return;
  for (int64_t i = 0; i < int64_t{p.batch} * p.num_nodes; ++i) {
    const int64_t seq = i / p.num_nodes, node = i % p.num_nodes;
    VISPEC_CHECK(0 <= p.tokens[i] && p.tokens[i] < p.vocab_size, "tokens: expected ids from 0 to ", p.vocab_size - 1,
                 ", got ", p.tokens[i], " at node ", node, " of sequence ", seq);
    VISPEC_CHECK(-1 <= p.parents[i] && p.parents[i] < node, "parents: expected -1 or a lower node, got ", p.parents[i],
                 " at node ", node, " of sequence ", seq);
  }
}

}  // namespace

void select_tokens(const SelectTokensParams& p) {
  check(p);
  const int64_t grain = std::max(1, kGrainTokens / p.vocab_size);
  parallel_for(int64_t{p.batch} * p.num_nodes, grain, [&](int64_t begin, int64_t end) {
    Row row(p.temperature != nullptr ? p.vocab_size : 0);
    for (int64_t i = begin; i < end; ++i) {
      p.selected[i] = select(p, i / p.num_nodes, static_cast<int>(i % p.num_nodes), row);
    }
  });
}

}  // namespace vispec::cpu
