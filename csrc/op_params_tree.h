// Checks of the arguments, outputs and parameter structs of the operators that draft a tree and judge it, for every
// back end.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>

#include "common/accept_path.h"
#include "common/build_tree.h"
#include "common/expand_frontier.h"
#include "common/select_tokens.h"
#include "tensor_checks.h"

namespace vispec {

using OptionalIn = const std::optional<Tensor>&;

template <class T>
const T* pointer(OptionalIn t) {
  return t ? t->const_data_ptr<T>() : nullptr;
}

inline void check_float32(const char* arg, In t, std::initializer_list<int64_t> sizes, In like) {
  check_exact(arg, t, ScalarType::Float, sizes, like);
}

// [B, nodes, V] of a floating-point dtype, V contiguous.
inline void check_logits(In logits, const char* shape) {
  check_float("logits", logits, 3, shape);
  VISPEC_CHECK(logits.size(1) >= 1 && logits.size(2) >= 1, "logits: expected at least one node and one token, got ",
               describe(logits));
  VISPEC_CHECK(logits.size(2) == 1 || logits.stride(2) == 1,
               "logits: expected the last dimension contiguous, got strides ", list(logits.strides()));
}

inline Tensor empty(In like, std::initializer_list<int64_t> sizes, ScalarType type) {
  return torch::stable::new_empty(like, sizes, type);
}

// ---- expand_frontier ----

struct ExpandFrontierCall {
  Tensor tokens, candidate_scores, frontier, frontier_tokens, frontier_scores;
  ExpandFrontierParams params;

  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> outputs() const {
    return {tokens, candidate_scores, frontier, frontier_tokens, frontier_scores};
  }
};

inline ExpandFrontierCall expand_frontier_call(In logits, In scores, int64_t top_k) {
  check_logits(logits, "[B, F, V]");
  const int64_t batch = logits.size(0), num_nodes = logits.size(1);
  check_float32("scores", scores, {batch, num_nodes}, logits);
  VISPEC_CHECK(1 <= top_k && top_k <= logits.size(2), "top_k: expected from 1 to the vocabulary's ", logits.size(2),
               ", got ", top_k);
  VISPEC_CHECK(num_nodes * top_k <= kMaxCandidates, "top_k: expected at most ", kMaxCandidates / num_nodes, " for ",
               num_nodes, " frontier nodes, got ", top_k);
  const Tensor tokens = empty(logits, {batch, num_nodes, top_k}, ScalarType::Long);
  const Tensor candidate_scores = empty(logits, {batch, num_nodes, top_k}, ScalarType::Float);
  const Tensor frontier = empty(logits, {batch, top_k}, ScalarType::Int);
  const Tensor frontier_tokens = empty(logits, {batch, top_k}, ScalarType::Long);
  const Tensor frontier_scores = empty(logits, {batch, top_k}, ScalarType::Float);
  const ExpandFrontierParams params{.logits = bytes(logits),
                                    .logits_seq = logits.stride(0) * element_bytes(logits),
                                    .logits_node = logits.stride(1) * element_bytes(logits),
                                    .scores = scores.const_data_ptr<float>(),
                                    .tokens = tokens.mutable_data_ptr<int64_t>(),
                                    .candidate_scores = candidate_scores.mutable_data_ptr<float>(),
                                    .frontier = frontier.mutable_data_ptr<int32_t>(),
                                    .frontier_tokens = frontier_tokens.mutable_data_ptr<int64_t>(),
                                    .frontier_scores = frontier_scores.mutable_data_ptr<float>(),
                                    .batch = dim(logits, 0),
                                    .num_nodes = dim(logits, 1),
                                    .vocab_size = dim(logits, 2),
                                    .top_k = static_cast<int>(top_k),
                                    .dtype = dtype(logits)};
  return {tokens, candidate_scores, frontier, frontier_tokens, frontier_scores, params};
}

// ---- build_tree ----

struct BuildTreeCall {
  Tensor tokens, parents, depths, ancestors;
  BuildTreeParams params;

  std::tuple<Tensor, Tensor, Tensor, Tensor> outputs() const { return {tokens, parents, depths, ancestors}; }
};

inline BuildTreeCall build_tree_call(In root_tokens, In tokens, In scores, In parents, int64_t num_nodes) {
  VISPEC_CHECK(tokens.dim() == 2, "tokens: expected int64 [B, C], got ", describe(tokens));
  const int64_t batch = tokens.size(0), num_candidates = tokens.size(1);
  check_int64("tokens", tokens, {batch, num_candidates}, tokens);
  check_int64("root_tokens", root_tokens, {batch}, tokens);
  check_float32("scores", scores, {batch, num_candidates}, tokens);
  check_int32("parents", parents, {batch, num_candidates}, tokens);
  VISPEC_CHECK(1 <= num_nodes && num_nodes <= kMaxNodes, "num_nodes: expected from 1 to ", kMaxNodes, ", got ",
               num_nodes);
  VISPEC_CHECK(num_nodes - 1 <= num_candidates, "num_nodes: expected at most ", num_candidates + 1, " for ",
               num_candidates, " candidates and the root, got ", num_nodes);
  const int64_t num_words = (num_nodes + 63) / 64;
  const Tensor node_tokens = empty(tokens, {batch, num_nodes}, ScalarType::Long);
  const Tensor node_parents = empty(tokens, {batch, num_nodes}, ScalarType::Int);
  const Tensor depths = empty(tokens, {batch, num_nodes}, ScalarType::Int);
  const Tensor ancestors = empty(tokens, {batch, num_nodes, num_words}, ScalarType::Long);
  const BuildTreeParams params{.root_tokens = root_tokens.const_data_ptr<int64_t>(),
                               .candidate_tokens = tokens.const_data_ptr<int64_t>(),
                               .candidate_scores = scores.const_data_ptr<float>(),
                               .candidate_parents = parents.const_data_ptr<int32_t>(),
                               .tokens = node_tokens.mutable_data_ptr<int64_t>(),
                               .parents = node_parents.mutable_data_ptr<int32_t>(),
                               .depths = depths.mutable_data_ptr<int32_t>(),
                               .ancestors = ancestors.mutable_data_ptr<int64_t>(),
                               .batch = dim(tokens, 0),
                               .num_candidates = dim(tokens, 1),
                               .num_nodes = static_cast<int>(num_nodes),
                               .num_words = static_cast<int>(num_words)};
  return {node_tokens, node_parents, depths, ancestors, params};
}

// ---- select_tokens ----

// What the options need of each other.
inline void check_present(OptionalIn tokens, OptionalIn parents, OptionalIn positions, OptionalIn seen,
                          OptionalIn temperature, OptionalIn top_k, OptionalIn top_p, OptionalIn min_p,
                          OptionalIn repetition_penalty, OptionalIn seed) {
  const auto need = [](const char* arg, OptionalIn t, const char* other) {
    VISPEC_CHECK(t, arg, ": expected a tensor with ", other, ", got None");
  };
  if (temperature) {
    need("positions", positions, "temperature");
    need("seed", seed, "temperature");
  }
  if (top_k || top_p || min_p || repetition_penalty || seed) {
    VISPEC_CHECK(temperature, "temperature: expected a tensor with top_k, top_p, min_p, repetition_penalty or seed, ",
                 "got None");
  }
  if (repetition_penalty) {
    need("tokens", tokens, "repetition_penalty");
    need("parents", parents, "repetition_penalty");
    need("seen", seen, "repetition_penalty");
  }
}

inline SelectTokensParams select_tokens_params(In logits, OptionalIn tokens, OptionalIn parents, OptionalIn positions,
                                               OptionalIn seen, OptionalIn temperature, OptionalIn top_k,
                                               OptionalIn top_p, OptionalIn min_p, OptionalIn repetition_penalty,
                                               OptionalIn seed, OptionalIn row) {
  check_logits(logits, "[B, N, V]");
  const int64_t batch = logits.size(0), num_nodes = logits.size(1), vocab_size = logits.size(2);
  VISPEC_CHECK(num_nodes <= kMaxNodes, "logits: expected at most ", kMaxNodes, " nodes, got ", describe(logits));
  check_present(tokens, parents, positions, seen, temperature, top_k, top_p, min_p, repetition_penalty, seed);
  if (tokens) check_int64("tokens", *tokens, {batch, num_nodes}, logits);
  if (parents) check_int32("parents", *parents, {batch, num_nodes}, logits);
  if (positions) check_int32("positions", *positions, {batch, num_nodes}, logits);
  if (seen) check_int32("seen", *seen, {batch, (vocab_size + 31) / 32}, logits);
  if (temperature) check_float32("temperature", *temperature, {batch}, logits);
  if (top_k) check_int32("top_k", *top_k, {batch}, logits);
  if (top_p) check_float32("top_p", *top_p, {batch}, logits);
  if (min_p) check_float32("min_p", *min_p, {batch}, logits);
  if (repetition_penalty) check_float32("repetition_penalty", *repetition_penalty, {batch}, logits);
  if (seed) check_int64("seed", *seed, {batch}, logits);
  if (row) check_int32("row", *row, {batch}, logits);
  return {.logits = bytes(logits),
          .logits_seq = logits.stride(0) * element_bytes(logits),
          .logits_node = logits.stride(1) * element_bytes(logits),
          .tokens = pointer<int64_t>(tokens),
          .parents = pointer<int32_t>(parents),
          .positions = pointer<int32_t>(positions),
          .seen = pointer<int32_t>(seen),
          .temperature = pointer<float>(temperature),
          .top_k = pointer<int32_t>(top_k),
          .top_p = pointer<float>(top_p),
          .min_p = pointer<float>(min_p),
          .repetition_penalty = pointer<float>(repetition_penalty),
          .seed = pointer<int64_t>(seed),
          .row = pointer<int32_t>(row),
          .selected = nullptr,
          .batch = dim(logits, 0),
          .num_nodes = dim(logits, 1),
          .vocab_size = dim(logits, 2),
          .dtype = dtype(logits)};
}

// ---- accept_path ----

struct AcceptPathCall {
  Tensor nodes, num_accepted, bonus;
  AcceptPathParams params;

  std::tuple<Tensor, Tensor, Tensor> outputs() const { return {nodes, num_accepted, bonus}; }
};

inline AcceptPathCall accept_path_call(In tokens, In parents, In target_tokens, int64_t max_depth) {
  VISPEC_CHECK(tokens.dim() == 2 && 1 <= tokens.size(1) && tokens.size(1) <= kMaxNodes,
               "tokens: expected int64 [B, N] with N from 1 to ", kMaxNodes, ", got ", describe(tokens));
  const int64_t batch = tokens.size(0), num_nodes = tokens.size(1);
  check_int64("tokens", tokens, {batch, num_nodes}, tokens);
  check_int32("parents", parents, {batch, num_nodes}, tokens);
  check_int64("target_tokens", target_tokens, {batch, num_nodes}, tokens);
  VISPEC_CHECK(0 <= max_depth && max_depth < kMaxNodes, "max_depth: expected from 0 to ", kMaxNodes - 1, ", got ",
               max_depth);
  const Tensor nodes = empty(tokens, {batch, max_depth + 1}, ScalarType::Int);
  const Tensor num_accepted = empty(tokens, {batch}, ScalarType::Int);
  const Tensor bonus = empty(tokens, {batch}, ScalarType::Long);
  const AcceptPathParams params{.tokens = tokens.const_data_ptr<int64_t>(),
                                .parents = parents.const_data_ptr<int32_t>(),
                                .target_tokens = target_tokens.const_data_ptr<int64_t>(),
                                .nodes = nodes.mutable_data_ptr<int32_t>(),
                                .num_accepted = num_accepted.mutable_data_ptr<int32_t>(),
                                .bonus = bonus.mutable_data_ptr<int64_t>(),
                                .batch = dim(tokens, 0),
                                .num_nodes = dim(tokens, 1),
                                .max_depth = static_cast<int>(max_depth)};
  return {nodes, num_accepted, bonus, params};
}

}  // namespace vispec
