// Launchers of the CUDA operators. Each starts its kernels on the stream and returns at once: nothing is allocated,
// waited for or read back, so that a CUDA graph can capture it. Lengths and trees are read on the device.
#pragma once

#include <driver_types.h>

#include "common/accept_path.h"
#include "common/append_kv.h"
#include "common/build_tree.h"
#include "common/compact_kv.h"
#include "common/expand_frontier.h"
#include "common/select_tokens.h"
#include "common/tree_attention_plan.h"

namespace vispec::cuda {

cudaError_t accept_path(const AcceptPathParams& p, cudaStream_t stream);
cudaError_t append_kv(const AppendKvParams& p, cudaStream_t stream);
cudaError_t build_tree(const BuildTreeParams& p, cudaStream_t stream);
cudaError_t compact_kv(const CompactKvParams& p, cudaStream_t stream);
cudaError_t expand_frontier(const ExpandFrontierParams& p, void* workspace, cudaStream_t stream);
cudaError_t select_tokens(const SelectTokensParams& p, void* workspace, cudaStream_t stream);
// `workspace`: tree_attention_workspace(p, plan) bytes, aligned to 16; null if that is 0.
cudaError_t tree_attention(const TreeAttentionParams& p, const TreeAttentionPlan& plan, void* workspace,
                           cudaStream_t stream);

}  // namespace vispec::cuda
