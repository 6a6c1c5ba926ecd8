#pragma once

#include <cstdint>

#include "common/order.h"
#include "common/tree_walk.h"

namespace vispec {

struct BuildTreeParams {
  const int64_t* root_tokens;        // [B]
  const int64_t* candidate_tokens;   // [B, C]
  const float* candidate_scores;     // [B, C]
  const int32_t* candidate_parents;  // [B, C] lower than the candidate's own index, -1 for a child of the root
  int64_t* tokens;                   // [B, N]
  int32_t* parents;                  // [B, N] -1 for the root
  int32_t* depths;                   // [B, N]
  int64_t* ancestors;                // [B, N, num_words]
  int batch, num_candidates, num_nodes, num_words;
};

// The node of the parent of node `node`, or -1 where the candidates are malformed. Node i is candidate kept[i - 1], and
// `kept` ascends: only the nodes before this one are searched.
VISPEC_HOST_DEVICE int parent_node(const int32_t* kept, int node, int parent_candidate) {
  if (parent_candidate == -1) return 0;
  int low = 0, high = node - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (kept[middle] < parent_candidate) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < node - 1 && kept[low] == parent_candidate ? low + 1 : -1;
}

namespace cpu {
void build_tree(const BuildTreeParams& p);
}

}  // namespace vispec
