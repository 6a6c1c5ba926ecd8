// The CUDA back end of every operator: the tensors' device, torch's stream on it, scratch memory, and launchers' errors
// as exceptions. Checks and outputs are those of the CPU; what CUDA asks for beyond them is checked here.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <stdexcept>

#include "cuda/operators.h"
#include "op_params.h"
#include "op_params_tree.h"

// Only CUDA builds of torch have it: weak, so that the library loads on the others too.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                   void** ret_stream);

namespace vispec {
namespace {

void check_cuda(const char* op, cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(text(op, ": CUDA error: ", cudaGetErrorString(error)));
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check_cuda("vispec", cudaDeviceGetAttribute(&value, which, device));
  return value;
}

// Where an operator on `like` runs. While it lives, the tensor's device is the current one.
class Launch {
 public:
  explicit Launch(In like) : like_(like), index_(like.device().index()), guard_(index_) {
    if (aoti_torch_get_current_cuda_stream == nullptr) {
      throw std::runtime_error("vispec: torch's function for the current CUDA stream was not found; see `vispec info`");
    }
    void* stream = nullptr;
    if (aoti_torch_get_current_cuda_stream(index_, &stream) != AOTI_TORCH_SUCCESS) {
      throw std::runtime_error(text("vispec: torch gives no CUDA stream for ", name(like.device())));
    }
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }
  int num_sms() const { return attribute(cudaDevAttrMultiProcessorCount, index_); }
  int shared_bytes() const { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index_); }

  // Valid until the tensor goes: work on the stream that is already queued may still use it afterwards.
  Tensor workspace(size_t bytes) const {
    return torch::stable::new_empty(like_, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
  }

 private:
  In like_;
  int index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

// Grids have a block for each index of the first two dimensions in their second and third.
void check_grid(const char* arg, In t) {
  constexpr int64_t kMost = 65535;
  VISPEC_CHECK(t.size(0) <= kMost && t.size(1) <= kMost, arg, ": expected first dimensions of at most ", kMost,
               " on CUDA, got ", describe(t));
}

void append_kv_cuda(In k, In v, In k_cache, In v_cache, In cache_len) {
  const AppendKvParams p = append_kv_params(k, v, k_cache, v_cache, cache_len);
  check_grid("k", k);
  check_cuda("append_kv", cuda::append_kv(p, Launch(k).stream()));
}

// Rows are copied and multiplied 16 bytes at a time.
void check_rows_of_16_bytes(const char* arg, In t) {
  constexpr int64_t kVector = 16;
  bool fits = reinterpret_cast<uintptr_t>(t.data_ptr()) % kVector == 0 && row_bytes(t) % kVector == 0;
  for (int64_t i = 0; i < 3; ++i) fits = fits && (t.size(i) <= 1 || t.stride(i) * element_bytes(t) % kVector == 0);
  VISPEC_CHECK(fits, arg, ": expected rows of a multiple of 16 bytes, 16-byte aligned, on CUDA, got ", describe(t),
               ", strides ", list(t.strides()));
}

Tensor tree_attention_cuda(In q, In k_cache, In v_cache, In cache_len, In ancestors, std::optional<Tensor> kv_start,
                           std::optional<double> scale, std::optional<double> softcap,
                           std::optional<int64_t> sliding_window) {
  TreeAttentionParams p =
      tree_attention_params(q, k_cache, v_cache, cache_len, ancestors, kv_start, scale, softcap, sliding_window);
  VISPEC_CHECK(q.size(3) % 8 == 0, "q: expected a head size that is a multiple of 8 on CUDA, got ", describe(q));
  check_rows_of_16_bytes("k_cache", k_cache);
  check_rows_of_16_bytes("v_cache", v_cache);
  const Tensor out = torch::stable::new_empty(q, {q.size(0), q.size(2), q.size(1), q.size(3)});
  p.out = bytes(out);
  const Launch launch(q);
  const TreeAttentionPlan plan = plan_tree_attention(p, launch.num_sms(), launch.shared_bytes());
  const Tensor workspace = launch.workspace(tree_attention_workspace(p, plan));
  check_cuda("tree_attention", cuda::tree_attention(p, plan, workspace.data_ptr(), launch.stream()));
  return out;
}

void compact_kv_cuda(std::vector<Tensor> k_caches, std::vector<Tensor> v_caches, In cache_len, In nodes,
                     In num_accepted) {
  const CompactKvCall call = compact_kv_call(k_caches, v_caches, cache_len, nodes, num_accepted);
  check_grid("nodes", nodes);
  check_cuda("compact_kv", cuda::compact_kv(call.params, Launch(cache_len).stream()));
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> expand_frontier_cuda(In logits, In scores, int64_t top_k) {
  const ExpandFrontierCall call = expand_frontier_call(logits, scores, top_k);
  check_grid("logits", logits);
  const Launch launch(logits);
  const Tensor workspace = launch.workspace(expand_frontier_workspace(call.params));
  check_cuda("expand_frontier", cuda::expand_frontier(call.params, workspace.data_ptr(), launch.stream()));
  return call.outputs();
}

std::tuple<Tensor, Tensor, Tensor, Tensor> build_tree_cuda(In root_tokens, In tokens, In scores, In parents,
                                                           int64_t num_nodes) {
  const BuildTreeCall call = build_tree_call(root_tokens, tokens, scores, parents, num_nodes);
  check_cuda("build_tree", cuda::build_tree(call.params, Launch(tokens).stream()));
  return call.outputs();
}

Tensor select_tokens_cuda(In logits, std::optional<Tensor> tokens, std::optional<Tensor> parents,
                          std::optional<Tensor> positions, std::optional<Tensor> seen,
                          std::optional<Tensor> temperature, std::optional<Tensor> top_k, std::optional<Tensor> top_p,
                          std::optional<Tensor> min_p, std::optional<Tensor> repetition_penalty,
                          std::optional<Tensor> seed, std::optional<Tensor> row) {
  SelectTokensParams p = select_tokens_params(logits, tokens, parents, positions, seen, temperature, top_k, top_p,
                                              min_p, repetition_penalty, seed, row);
  check_grid("logits", logits);
  const Tensor selected = empty(logits, {logits.size(0), logits.size(1)}, ScalarType::Long);
  p.selected = selected.mutable_data_ptr<int64_t>();
  const Launch launch(logits);
  const Tensor workspace = launch.workspace(select_tokens_workspace(p));
  check_cuda("select_tokens", cuda::select_tokens(p, workspace.data_ptr(), launch.stream()));
  return selected;
}

std::tuple<Tensor, Tensor, Tensor> accept_path_cuda(In tokens, In parents, In target_tokens, int64_t max_depth) {
  const AcceptPathCall call = accept_path_call(tokens, parents, target_tokens, max_depth);
  check_cuda("accept_path", cuda::accept_path(call.params, Launch(tokens).stream()));
  return call.outputs();
}

}  // namespace
}  // namespace vispec

STABLE_TORCH_LIBRARY_IMPL(vispec, CUDA, m) {
  m.impl("append_kv", TORCH_BOX(&vispec::append_kv_cuda));
  m.impl("tree_attention", TORCH_BOX(&vispec::tree_attention_cuda));
  m.impl("compact_kv", TORCH_BOX(&vispec::compact_kv_cuda));
  m.impl("expand_frontier", TORCH_BOX(&vispec::expand_frontier_cuda));
  m.impl("build_tree", TORCH_BOX(&vispec::build_tree_cuda));
  m.impl("select_tokens", TORCH_BOX(&vispec::select_tokens_cuda));
  m.impl("accept_path", TORCH_BOX(&vispec::accept_path_cuda));
}
