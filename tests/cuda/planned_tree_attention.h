// tree_attention with a plan of the test's choice.
#pragma once

#include "cuda/operators.h"

namespace vispec {

struct PlannedTreeAttention {
  TreeAttentionParams p;
  TreeAttentionPlan plan;
  char* workspace;
  int num_sms, shared_bytes;
  TreeAttentionPlan* made;   // null: run `plan`; else: the plan for this device
  int64_t* workspace_bytes;  // of either plan
};

namespace cuda {

cudaError_t planned_tree_attention(const PlannedTreeAttention& call, cudaStream_t stream);

}  // namespace cuda
}  // namespace vispec
