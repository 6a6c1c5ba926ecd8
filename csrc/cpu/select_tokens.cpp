// Floor: the logits are read once. An argmax does no more. A draw first writes the penalised, cooled logits of a row as
// floats; filters and noise then touch only blocks that can matter, judged by their maxima.
#include "common/select_tokens.h"

#include <algorithm>
#include <vector>

#include "common/check.h"
#include "common/philox.h"
#include "common/tree_walk.h"
#include "cpu/clones.h"
#include "cpu/kept_values.h"
#include "cpu/parallel.h"
#include "cpu/vector_math.h"

namespace vispec::cpu {
namespace {

constexpr int kGrainTokens = 32768;  // 5 us or more of work; waking a thread takes about as long
constexpr int kArgmaxBlock = 1024;

// ---- Argmax ----

// The largest of n values, NaN apart, or NaN where there is one.
template <class T>
VISPEC_INLINE float largest_of(const T* x, int n) {
  float largest = kMinusInfinity;
  int nans = 0;
#pragma omp simd reduction(max : largest) reduction(+ : nans)
  for (int i = 0; i < n; ++i) {
    const float value = to_float(x[i]);
    largest = value > largest ? value : largest;
    nans += value != value;
  }
  return nans > 0 ? std::numeric_limits<float>::quiet_NaN() : largest;
}
VISPEC_CLONES float largest(const float* x, int n) { return largest_of(x, n); }
VISPEC_CLONES float largest(const Half* x, int n) { return largest_of(x, n); }
VISPEC_CLONES float largest(const BFloat16* x, int n) { return largest_of(x, n); }

// The first of the largest; NaN counts as the largest of all.
template <class T>
int argmax(const T* x, int n) {
  float best = kMinusInfinity;
  int best_block = 0;
  for (int first = 0; first < n && best == best; first += kArgmaxBlock) {
    const float value = largest(x + first, std::min(kArgmaxBlock, n - first));
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

template <class T>
VISPEC_INLINE void convert_all(const T* logits, int n, float* x) {
#pragma omp simd
  for (int i = 0; i < n; ++i) x[i] = to_float(logits[i]);
}
VISPEC_CLONES void convert(const float* logits, int n, float* x) { convert_all(logits, n, x); }
VISPEC_CLONES void convert(const Half* logits, int n, float* x) { convert_all(logits, n, x); }
VISPEC_CLONES void convert(const BFloat16* logits, int n, float* x) { convert_all(logits, n, x); }

// Divides by the temperature; returns the largest of the block.
VISPEC_CLONES float cool_block(float* x, float temperature) {
  float largest = kMinusInfinity;
#pragma omp simd reduction(max : largest)
  for (int i = 0; i < kValueBlock; ++i) {
    x[i] = cool(x[i], temperature);
    largest = x[i] > largest ? x[i] : largest;
  }
  return largest;
}

void cool_row(Row& row, float temperature) {
  row.max = kMinusInfinity;
  for (size_t block = 0; block < row.block_max.size(); ++block) {
    row.block_max[block] = cool_block(&row.values[block * kValueBlock], temperature);
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

// The random words of 64 tokens from `first` on; false where none of them can reach `best`, which is no value's own.
VISPEC_CLONES bool draw_words(const float* x, int first, float max, float best_above_max, uint64_t key,
                              uint32_t position, uint32_t row, uint32_t* words) {
  constexpr int kCounters = kValueBlock / 4;
#pragma omp simd
  for (int i = 0; i < kCounters; ++i) {
    const PhiloxWords drawn = philox({{static_cast<uint32_t>(first / 4 + i), position, row, 0}}, key);
    for (int j = 0; j < 4; ++j) words[4 * i + j] = drawn.word[j];
  }
  int reaching = 0;
#pragma omp simd reduction(+ : reaching)
  for (int i = 0; i < kValueBlock; ++i) reaching += may_reach(best_above_max - (x[i] - max), words[i]);
  return reaching > 0;
}

struct Draw {
  int token;
  double score;
};

// The best noisy score among the values from `boundary` on that min_p keeps. The token of the largest value is scored
// first: no filter drops it, and it rules out most blocks.
int draw(const SelectTokensParams& p, int64_t seq, int node, const Row& row, float boundary) {
  const uint64_t key = p.seed[seq];
  const uint32_t position = p.positions[seq * p.num_nodes + node];
  const uint32_t sequence = p.row != nullptr ? p.row[seq] : static_cast<int32_t>(seq);
  const double min_p = p.min_p != nullptr ? p.min_p[seq] : 0;
  const float* values = row.values.data();

  const int top = argmax(values, p.vocab_size);
  const PhiloxWords words = philox({{static_cast<uint32_t>(top) / 4, position, sequence, 0}}, key);
  Draw best{top, noisy_score(row.max, words.word[top % 4])};
  for (int first = 0; first < p.vocab_size; first += kValueBlock) {
    const float block_max = row.block_max[first / kValueBlock];
    const float best_above_max = static_cast<float>(best.score - row.max);
    if (block_max < boundary || block_max - row.max + kLargestNoise < best_above_max) continue;
    uint32_t noise[kValueBlock];
    if (!draw_words(values + first, first, row.max, best_above_max, key, position, sequence, noise)) continue;
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
  const Values values{row.values.data(), row.block_max.data(), p.vocab_size, row.max};
  float boundary = kMinusInfinity;
  if (0 < top_k && top_k < p.vocab_size) boundary = kth_largest(values, top_k, row.kept);
  if (top_p < 1) boundary = top_p_boundary(values, boundary, top_p, row.kept);
  return boundary;
}

template <class T>
int select(const SelectTokensParams& p, const T* logits, int64_t seq, int node, Row& row) {
  if (p.temperature == nullptr) return argmax(logits, p.vocab_size);
  convert(logits, p.vocab_size, row.values.data());
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
