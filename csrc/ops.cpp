// Schemas and the CPU back end of the operators on the KV cache.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "op_params.h"

namespace vispec {
namespace {

void append_kv_cpu(In k, In v, In k_cache, In v_cache, In cache_len) {
  cpu::append_kv(append_kv_params(k, v, k_cache, v_cache, cache_len));
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

void compact_kv_cpu(std::vector<Tensor> k_caches, std::vector<Tensor> v_caches, In cache_len, In nodes,
                    In num_accepted) {
  cpu::compact_kv(compact_kv_call(k_caches, v_caches, cache_len, nodes, num_accepted).params);
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
