// Floor: C keys ranked by one partial selection, then N * depth steps.
#include "common/build_tree.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "common/check.h"
#include "cpu/parallel.h"

namespace vispec::cpu {
namespace {

constexpr int64_t kGrainCandidates = 65536;  // about 200 us of selection; for less, a thread is not worth waking

// The `count` best candidates, ascending.
std::vector<int32_t> keep_best(const float* scores, int num_candidates, int count) {
  std::vector<uint64_t> ranks(num_candidates);
  for (int c = 0; c < num_candidates; ++c) ranks[c] = rank_key(scores[c], c);
  std::nth_element(ranks.begin(), ranks.begin() + count, ranks.end(), std::greater<>());
  std::vector<int32_t> kept(count);
  std::transform(ranks.begin(), ranks.begin() + count, kept.begin(), index_of);
  std::sort(kept.begin(), kept.end());
  return kept;
}

// Returns -1, or the kept candidate whose parent is missing.
int64_t build_one(const BuildTreeParams& p, int64_t seq) {
  const int64_t in = seq * p.num_candidates, out = seq * p.num_nodes;
  const std::vector<int32_t> kept = keep_best(p.candidate_scores + in, p.num_candidates, p.num_nodes - 1);
  int32_t* parents = p.parents + out;
  int64_t* ancestors = p.ancestors + out * p.num_words;
  std::fill_n(ancestors, int64_t{p.num_nodes} * p.num_words, 0);
  for (int node = 0; node < p.num_nodes; ++node) {
    const int64_t candidate = node == 0 ? -1 : kept[node - 1];
    parents[node] = node == 0 ? -1 : parent_node(kept.data(), node, p.candidate_parents[in + candidate]);
    if (node > 0 && parents[node] < 0) return candidate;
    p.tokens[out + node] = node == 0 ? p.root_tokens[seq] : p.candidate_tokens[in + candidate];
    p.depths[out + node] = mark_ancestors(parents, node, ancestors + int64_t{node} * p.num_words);
  }
  return -1;
}

}  // namespace

void build_tree(const BuildTreeParams& p) {
  std::vector<int64_t> orphans(p.batch, -1);
  const int64_t grain = std::max<int64_t>(1, kGrainCandidates / (p.num_candidates + p.num_nodes));
  parallel_for(p.batch, grain, [&](int64_t begin, int64_t end) {
    for (int64_t seq = begin; seq < end; ++seq) orphans[seq] = build_one(p, seq);
  });
  for (int seq = 0; seq < p.batch; ++seq) {
    VISPEC_CHECK(orphans[seq] < 0,
                 "parents: expected the parent of each kept candidate to be kept and to come before it, got ",
                 p.candidate_parents[int64_t{seq} * p.num_candidates + orphans[seq]], " for candidate ", orphans[seq],
                 " of sequence ", seq);
  }
}

}  // namespace vispec::cpu
