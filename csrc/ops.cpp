// Schemas, argument checks and the CPU back end of every operator.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <optional>

#include "common/append_kv.h"
#include "common/compact_kv.h"
#include "common/tree_attention.h"
#include "tensor_checks.h"

namespace vispec {
namespace {

// ---- append_kv ----

AppendKvParams append_kv_params(In k, In v, In k_cache, In v_cache, In cache_len) {
  check_rows("k", k, "[B, Hkv, N, D]");
  check_rows("v", v, "[B, Hkv, N, D]");
  check_same("v", v, "k", k);
  check_rows("k_cache", k_cache, "[B, Hkv, S, D]");
  check_like("v_cache", v_cache, "k_cache", k_cache);
  check_agree("k_cache", k_cache, "k", k, {0, 1, 3});
  check_int32("cache_len", cache_len, {k.size(0)}, k);
  return {.k = bytes(k),
          .v = bytes(v),
          .k_cache = bytes(k_cache),
          .v_cache = bytes(v_cache),
          .cache_len = cache_len.const_data_ptr<int32_t>(),
          .k_strides = byte_strides(k),
          .v_strides = byte_strides(v),
          .cache = byte_strides(k_cache),
          .batch = dim(k, 0),
          .num_kv_heads = dim(k, 1),
          .num_nodes = dim(k, 2),
          .capacity = dim(k_cache, 2),
          .row_bytes = row_bytes(k)};
}

void append_kv_cpu(In k, In v, In k_cache, In v_cache, In cache_len) {
  cpu::append_kv(append_kv_params(k, v, k_cache, v_cache, cache_len));
}

// ---- tree_attention ----

TreeAttentionParams tree_attention_params(In q, In k_cache, In v_cache, In cache_len, In ancestors,
                                          const std::optional<Tensor>& kv_start, std::optional<double> scale,
                                          std::optional<double> softcap, std::optional<int64_t> sliding_window) {
  check_float("q", q, 4, "[B, Hq, M, D]");
  check_rows("k_cache", k_cache, "[B, Hkv, S, D]");
  check_like("v_cache", v_cache, "k_cache", k_cache);
  check_agree("k_cache", k_cache, "q", q, {0, 3});
  VISPEC_CHECK(q.size(2) <= kMaxNodes, "q: expected at most ", kMaxNodes, " nodes, got ", describe(q));
  VISPEC_CHECK(1 <= q.size(3) && q.size(3) <= kMaxHeadDim, "q: expected a head size from 1 to ", kMaxHeadDim, ", got ",
               describe(q));
  VISPEC_CHECK(k_cache.size(1) >= 1 && q.size(1) % k_cache.size(1) == 0, "k_cache: expected a divisor of the ",
               q.size(1), " heads of q in dimension 1, got ", describe(k_cache));
  check_int32("cache_len", cache_len, {q.size(0)}, q);
  if (kv_start) check_int32("kv_start", *kv_start, {q.size(0)}, q);
  VISPEC_CHECK(ancestors.dim() == 3, "ancestors: expected int64 [B, M, W], got ", describe(ancestors));
  check_int64("ancestors", ancestors, {q.size(0), q.size(2), ancestors.size(2)}, q);
  VISPEC_CHECK(q.size(2) <= 64 * ancestors.size(2) && 64 * ancestors.size(2) <= kMaxNodes,
               "ancestors: expected from M / 64 to ", kMaxNodes / 64, " words a row, got ", describe(ancestors));
  VISPEC_CHECK(std::isfinite(scale.value_or(1)), "scale: expected a finite number, got ", *scale);
  VISPEC_CHECK(softcap.value_or(1) > 0, "softcap: expected a number above 0 or None, got ", *softcap);
  VISPEC_CHECK(sliding_window.value_or(1) > 0, "sliding_window: expected at least 1 or None, got ", *sliding_window);
  return {.q = bytes(q),
          .k_cache = bytes(k_cache),
          .v_cache = bytes(v_cache),
          .out = nullptr,
          .cache_len = cache_len.const_data_ptr<int32_t>(),
          .kv_start = kv_start ? kv_start->const_data_ptr<int32_t>() : nullptr,
          .ancestors = ancestors.const_data_ptr<int64_t>(),
          .q_strides = byte_strides(q),
          .q_element = q.stride(3) * element_bytes(q),
          .cache = byte_strides(k_cache),
          .batch = dim(q, 0),
          .num_heads = dim(q, 1),
          .num_kv_heads = dim(k_cache, 1),
          .num_queries = dim(q, 2),
          .capacity = dim(k_cache, 2),
          .head_dim = dim(q, 3),
          .mask_words = dim(ancestors, 2),
          .scale = static_cast<float>(scale ? *scale : 1 / std::sqrt(static_cast<double>(q.size(3)))),
          .softcap = static_cast<float>(softcap.value_or(0)),
          .sliding_window = sliding_window.value_or(0),
          .dtype = dtype(q)};
}

Tensor tree_attention_cpu(In q, In k_cache, In v_cache, In cache_len, In ancestors, std::optional<Tensor> kv_start,
                          std::optional<double> scale, std::optional<double> softcap,
                          std::optional<int64_t> sliding_window) {
  TreeAttentionParams p =
      tree_attention_params(q, k_cache, v_cache, cache_len, ancestors, kv_start, scale, softcap, sliding_window);
  Tensor out = torch::stable::new_empty(q, {q.size(0), q.size(2), q.size(1), q.size(3)});
  p.out = bytes(out);
  cpu::tree_attention(p);
  return out;
}

// ---- compact_kv ----

std::vector<CompactKvLayer> compact_kv_layers(const std::vector<Tensor>& k_caches, const std::vector<Tensor>& v_caches,
                                              In cache_len) {
  VISPEC_CHECK(k_caches.size() == v_caches.size(), "v_caches: expected ", k_caches.size(), " tensors as k_caches, got ",
               v_caches.size());
  std::vector<CompactKvLayer> layers;
  for (size_t i = 0; i < k_caches.size(); ++i) {
    In k = k_caches[i], v = v_caches[i];
    const std::string k_arg = text("k_caches[", i, "]"), v_arg = text("v_caches[", i, "]");
    check_rows(k_arg.c_str(), k, "[B, Hkv, S, D]");
    check_like(v_arg.c_str(), v, k_arg.c_str(), k);
    VISPEC_CHECK(k.size(0) == cache_len.numel() && k.device() == cache_len.device(), k_arg, ": expected ",
                 cache_len.numel(), " sequences on ", name(cache_len.device()), " as cache_len, got ", describe(k));
    layers.push_back({.k_cache = bytes(k),
                      .v_cache = bytes(v),
                      .strides = byte_strides(k),
                      .num_kv_heads = dim(k, 1),
                      .capacity = dim(k, 2),
                      .row_bytes = row_bytes(k)});
  }
  return layers;
}

CompactKvParams compact_kv_params(const std::vector<CompactKvLayer>& layers, In cache_len, In nodes, In num_accepted) {
  VISPEC_CHECK(nodes.dim() == 2, "nodes: expected int32 [B, P], got ", describe(nodes));
  check_int32("nodes", nodes, {cache_len.size(0), nodes.size(1)}, cache_len);
  VISPEC_CHECK(nodes.size(1) <= kMaxNodes, "nodes: expected at most ", kMaxNodes, " a sequence, got ", describe(nodes));
  check_int32("num_accepted", num_accepted, {cache_len.size(0)}, cache_len);
  return {.layers = layers.data(),
          .cache_len = cache_len.mutable_data_ptr<int32_t>(),
          .nodes = nodes.const_data_ptr<int32_t>(),
          .num_accepted = num_accepted.const_data_ptr<int32_t>(),
          .num_layers = static_cast<int>(layers.size()),
          .batch = dim(cache_len, 0),
          .width = dim(nodes, 1)};
}

void compact_kv_cpu(std::vector<Tensor> k_caches, std::vector<Tensor> v_caches, In cache_len, In nodes,
                    In num_accepted) {
  VISPEC_CHECK(cache_len.dim() == 1, "cache_len: expected int32 [B], got ", describe(cache_len));
  check_int32("cache_len", cache_len, {cache_len.size(0)}, cache_len);
  const std::vector<CompactKvLayer> layers = compact_kv_layers(k_caches, v_caches, cache_len);
  cpu::compact_kv(compact_kv_params(layers, cache_len, nodes, num_accepted));
}

}  // namespace
}  // namespace vispec

STABLE_TORCH_LIBRARY(vispec, m) {
  m.def("append_kv(Tensor k, Tensor v, Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor cache_len) -> ()");
  m.def(
      "tree_attention(Tensor q, Tensor k_cache, Tensor v_cache, Tensor cache_len, Tensor ancestors, Tensor? kv_start, "
      "float? scale, float? softcap, int? sliding_window) -> Tensor");
  m.def(
      "compact_kv(Tensor(a!)[] k_caches, Tensor(b!)[] v_caches, Tensor(c!) cache_len, Tensor nodes, "
      "Tensor num_accepted) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(vispec, CPU, m) {
  m.impl("append_kv", TORCH_BOX(&vispec::append_kv_cpu));
  m.impl("tree_attention", TORCH_BOX(&vispec::tree_attention_cpu));
  m.impl("compact_kv", TORCH_BOX(&vispec::compact_kv_cpu));
}
