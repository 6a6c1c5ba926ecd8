#pragma once

#include <cstdint>

#include "common/tree_walk.h"

namespace vispec {

struct AcceptPathParams {
  const int64_t* tokens;         // [B, N]
  const int32_t* parents;        // [B, N] -1 for the root
  const int64_t* target_tokens;  // [B, N] what the target chose after each node
  int32_t* nodes;                // [B, max_depth + 1] root first, the last one repeated to the end
  int32_t* num_accepted;         // [B] without the root
  int64_t* bonus;                // [B]
  int batch, num_nodes, max_depth;
};

VISPEC_HOST_DEVICE void accept_path_of_sequence(const AcceptPathParams& p, int seq) {
  const int64_t tree = static_cast<int64_t>(seq) * p.num_nodes;
  int32_t* nodes = p.nodes + static_cast<int64_t>(seq) * (p.max_depth + 1);
  int node = 0, length = 0;
  nodes[0] = 0;
  while (length < p.max_depth) {
    const int64_t token = p.target_tokens[tree + node];
    const int child = child_with_token(p.parents + tree, p.tokens + tree, p.num_nodes, node, token);
    if (child < 0) break;
    nodes[++length] = node = child;
  }
  p.num_accepted[seq] = length;
  p.bonus[seq] = p.target_tokens[tree + node];
  while (length < p.max_depth) nodes[++length] = node;
}

namespace cpu {
void accept_path(const AcceptPathParams& p);
}

}  // namespace vispec
