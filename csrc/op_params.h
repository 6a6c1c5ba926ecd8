// Checks of the cache operators' arguments and their parameter structs, for every back end.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/append_kv.h"
#include "common/compact_kv.h"
#include "common/tree_attention.h"
#include "tensor_checks.h"

namespace vispec {

// ---- append_kv ----

inline AppendKvParams append_kv_params(In k, In v, In k_cache, In v_cache, In cache_len) {
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

// ---- tree_attention ----

inline TreeAttentionParams tree_attention_params(In q, In k_cache, In v_cache, In cache_len, In ancestors,
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

// ---- compact_kv ----

inline std::vector<CompactKvLayer> compact_kv_layers(const std::vector<Tensor>& k_caches,
                                                     const std::vector<Tensor>& v_caches, In cache_len) {
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

// Parameters that point to layers of their own.
struct CompactKvCall {
  std::vector<CompactKvLayer> layers;
  CompactKvParams params;
};

inline CompactKvCall compact_kv_call(const std::vector<Tensor>& k_caches, const std::vector<Tensor>& v_caches,
                                     In cache_len, In nodes, In num_accepted) {
  VISPEC_CHECK(cache_len.dim() == 1, "cache_len: expected int32 [B], got ", describe(cache_len));
  check_int32("cache_len", cache_len, {cache_len.size(0)}, cache_len);
  std::vector<CompactKvLayer> layers = compact_kv_layers(k_caches, v_caches, cache_len);
  VISPEC_CHECK(nodes.dim() == 2, "nodes: expected int32 [B, P], got ", describe(nodes));
  check_int32("nodes", nodes, {cache_len.size(0), nodes.size(1)}, cache_len);
  VISPEC_CHECK(nodes.size(1) <= kMaxNodes, "nodes: expected at most ", kMaxNodes, " a sequence, got ", describe(nodes));
  check_int32("num_accepted", num_accepted, {cache_len.size(0)}, cache_len);
  CompactKvCall call{std::move(layers), {}};
  call.params = {.layers = call.layers.data(),
                 .cache_len = cache_len.mutable_data_ptr<int32_t>(),
                 .nodes = nodes.const_data_ptr<int32_t>(),
                 .num_accepted = num_accepted.const_data_ptr<int32_t>(),
                 .num_layers = static_cast<int>(call.layers.size()),
                 .batch = dim(cache_len, 0),
                 .width = dim(nodes, 1)};
  return call;
}

}  // namespace vispec
