// Schemas and the CPU back end of the operators that draft a tree and judge it.
#include <torch/csrc/stable/library.h>

#include "op_params_tree.h"

namespace vispec {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> expand_frontier_cpu(In logits, In scores, int64_t top_k) {
  const ExpandFrontierCall call = expand_frontier_call(logits, scores, top_k);
  cpu::expand_frontier(call.params);
  return call.outputs();
}

std::tuple<Tensor, Tensor, Tensor, Tensor> build_tree_cpu(In root_tokens, In tokens, In scores, In parents,
                                                          int64_t num_nodes) {
  const BuildTreeCall call = build_tree_call(root_tokens, tokens, scores, parents, num_nodes);
  cpu::build_tree(call.params);
  return call.outputs();
}

Tensor select_tokens_cpu(In logits, std::optional<Tensor> tokens, std::optional<Tensor> parents,
                         std::optional<Tensor> positions, std::optional<Tensor> seen, std::optional<Tensor> temperature,
                         std::optional<Tensor> top_k, std::optional<Tensor> top_p, std::optional<Tensor> min_p,
                         std::optional<Tensor> repetition_penalty, std::optional<Tensor> seed,
                         std::optional<Tensor> row) {
  SelectTokensParams p = select_tokens_params(logits, tokens, parents, positions, seen, temperature, top_k, top_p,
                                              min_p, repetition_penalty, seed, row);
  const Tensor selected = empty(logits, {logits.size(0), logits.size(1)}, ScalarType::Long);
  p.selected = selected.mutable_data_ptr<int64_t>();
  cpu::select_tokens(p);
  return selected;
}

std::tuple<Tensor, Tensor, Tensor> accept_path_cpu(In tokens, In parents, In target_tokens, int64_t max_depth) {
  const AcceptPathCall call = accept_path_call(tokens, parents, target_tokens, max_depth);
  cpu::accept_path(call.params);
  return call.outputs();
}

}  // namespace
}  // namespace vispec

STABLE_TORCH_LIBRARY_FRAGMENT(vispec, m) {
  m.def("expand_frontier(Tensor logits, Tensor scores, int top_k) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "build_tree(Tensor root_tokens, Tensor tokens, Tensor scores, Tensor parents, int num_nodes) -> "
      "(Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "select_tokens(Tensor logits, Tensor? tokens, Tensor? parents, Tensor? positions, Tensor? seen, "
      "Tensor? temperature, Tensor? top_k, Tensor? top_p, Tensor? min_p, Tensor? repetition_penalty, Tensor? seed, "
      "Tensor? row) -> Tensor");
  m.def("accept_path(Tensor tokens, Tensor parents, Tensor target_tokens, int max_depth) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(vispec, CPU, m) {
  m.impl("expand_frontier", TORCH_BOX(&vispec::expand_frontier_cpu));
  m.impl("build_tree", TORCH_BOX(&vispec::build_tree_cpu));
  m.impl("select_tokens", TORCH_BOX(&vispec::select_tokens_cpu));
  m.impl("accept_path", TORCH_BOX(&vispec::accept_path_cpu));
}
