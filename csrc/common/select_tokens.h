#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "common/host_device.h"
#include "common/layout.h"
#include "common/order.h"

namespace vispec {

// A null pointer: the option is off; temperature null: plain argmax, and nothing but logits is read.
struct SelectTokensParams {
  const char* logits;               // [B, N, V]
  int64_t logits_seq, logits_node;  // strides in bytes; V is contiguous
  const int64_t* tokens;            // [B, N] the trees
  const int32_t* parents;           // [B, N]
  const int32_t* positions;         // [B, N]
  const int32_t* seen;              // [B, ceil(V / 32)] bit set: the token is in the history
  const float* temperature;         // [B] 0: argmax
  const int32_t* top_k;             // [B] 0: off
  const float* top_p;               // [B] from 1 on: off
  const float* min_p;               // [B] 0: off
  const float* repetition_penalty;  // [B] 1: off
  const int64_t* seed;              // [B]
  const int32_t* row;               // [B] null: 0, 1, 2, ...
  int64_t* selected;                // [B, N]
  int batch, num_nodes, vocab_size;
  DType dtype;
};

constexpr float kLargestNoise = 23.0f;  // -log(-log(u)) at the largest u, 1 - 2^-33, is 22.87

VISPEC_HOST_DEVICE float penalise(float x, float penalty) { return x < 0 ? x * penalty : x / penalty; }

// Divided by the temperature, with NaN as minus infinity and plus infinity as the largest float: differences are
// numbers.
VISPEC_HOST_DEVICE float cool(float x, float temperature) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  x /= temperature;
  x = x > kMinusInfinity ? x : kMinusInfinity;
  return x < kLargest ? x : kLargest;
}

// x plus Gumbel noise from one random word; in fp64, so that rounding decides no draw and all devices agree.
VISPEC_HOST_DEVICE double noisy_score(float x, uint32_t word) {
  const double u = (word + 0.5) * 0x1p-32;
  return x - std::log(-std::log(u));
}

// Whether noisy_score(x, word) can reach a score that lies `gap` above x: a bound without a logarithm.
// It does if -log(u) <= exp(-gap). Never skipped wrongly: 1 - u is below -log(u), and the chord 2^i * (1 + f) above
// 2^(i + f); the factor 1.001 covers the roundings.
VISPEC_HOST_DEVICE bool may_reach(float gap, uint32_t word) {
  constexpr float kLog2E = 1.44269504f, kLimit = 126;
  float exponent = gap * -kLog2E;
  exponent = exponent > -kLimit ? exponent : -kLimit;
  exponent = exponent < kLimit ? exponent : kLimit;
  const float above = std::bit_cast<float>(static_cast<int32_t>((exponent + 127) * 0x1p23f));
  const float below = static_cast<float>(static_cast<int32_t>(~word >> 1)) * 0x1p-31f;
  return below < 1.001f * above;
}

namespace cpu {
void select_tokens(const SelectTokensParams& p);
}

// How the CUDA back end cuts a row, by sizes alone.
constexpr int kSelectChunk = 8192;  // tokens a block: 64 rows of 152k make 1,216 blocks
constexpr int kSelectGroup = 64;    // tokens under one maximum

constexpr int select_chunks(const SelectTokensParams& p) { return (p.vocab_size + kSelectChunk - 1) / kSelectChunk; }
constexpr int select_groups(const SelectTokensParams& p) { return (p.vocab_size + kSelectGroup - 1) / kSelectGroup; }
constexpr int select_words(const SelectTokensParams& p) { return (p.vocab_size + 31) / 32; }

// Scratch memory on CUDA. A null pointer: not needed for this call.
struct SelectTokensScratch {
  uint64_t* best;    // [rows, chunks] key of the largest value
  double* score;     // [rows, chunks] best noisy score
  int32_t* drawn;    // [rows, chunks] its token
  float* mass;       // [rows, chunks] sum of exp(x - the chunk's largest)
  float* group_max;  // [rows, groups] largest value of each group
  float* boundary;   // [rows] the value from which on top_k and top_p keep
  uint32_t* used;    // [rows, words] bits of the tokens that repetition_penalty is for
};

// Lays the arrays out from `base` on and returns the bytes they take.
inline size_t select_tokens_scratch(const SelectTokensParams& p, char* base, SelectTokensScratch& scratch) {
  const size_t rows = static_cast<size_t>(p.batch) * p.num_nodes, parts = rows * select_chunks(p);
  const bool draws = p.temperature != nullptr, filters = p.top_k != nullptr || p.top_p != nullptr;
  size_t bytes = 0;
  const auto take = [&]<class T>(T*& array, size_t count) {
    array = count > 0 ? reinterpret_cast<T*>(base + bytes) : nullptr;
    bytes += count * sizeof(T);
  };
  take(scratch.best, parts);  // eight bytes an element first: all are aligned
  take(scratch.score, draws ? parts : 0);
  take(scratch.drawn, draws ? parts : 0);
  take(scratch.mass, p.top_p != nullptr ? parts : 0);
  take(scratch.group_max, draws ? rows * select_groups(p) : 0);
  take(scratch.boundary, filters ? rows : 0);
  take(scratch.used, p.repetition_penalty != nullptr ? rows * select_words(p) : 0);
  return bytes;
}

inline size_t select_tokens_workspace(const SelectTokensParams& p) {
  SelectTokensScratch scratch;
  return select_tokens_scratch(p, nullptr, scratch);
}

}  // namespace vispec
