#include "planned_tree_attention.h"

#include "cuda/tree_attention.cu"

namespace vispec::cuda {

cudaError_t planned_tree_attention(const PlannedTreeAttention& call, cudaStream_t stream) {
  const TreeAttentionPlan plan = call.made ? plan_tree_attention(call.p, call.num_sms, call.shared_bytes) : call.plan;
  *call.workspace_bytes = static_cast<int64_t>(tree_attention_workspace(call.p, plan));
  if (call.made) {
    *call.made = plan;
    return cudaSuccess;
  }
  return tree_attention(call.p, plan, call.workspace, stream);
}

}  // namespace vispec::cuda
