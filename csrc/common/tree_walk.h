// Steps up and down a tree given by its nodes' parents. Each step up goes to a lower node and each step down to a
// higher one, so a walk over any ints ends after at most N steps.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace vispec {

// The node above, or -1 at the root and where the tree is malformed.
VISPEC_HOST_DEVICE int parent_of(const int32_t* parents, int node) {
  const int parent = parents[node];
  return parent >= 0 && parent < node ? parent : -1;
}

// The first child of `node` that carries `token`, or -1.
VISPEC_HOST_DEVICE int child_with_token(const int32_t* parents, const int64_t* tokens, int num_nodes, int node,
                                        int64_t token) {
  for (int child = node + 1; child < num_nodes; ++child) {
    if (parents[child] == node && tokens[child] == token) return child;
  }
  return -1;
}

// Sets the bits of `node` and of all above it in a row of words, which are 0 before; returns the node's depth.
VISPEC_HOST_DEVICE int mark_ancestors(const int32_t* parents, int node, int64_t* words) {
  int depth = -1;
  for (int above = node; above >= 0; above = parent_of(parents, above), ++depth) {
    words[above / 64] |= static_cast<int64_t>(1ull << (above % 64));
  }
  return depth;
}

}  // namespace vispec
