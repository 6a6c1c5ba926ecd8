// What the parts of the CPU's tree attention hand to each other.
#pragma once

#include <cstdint>
#include <vector>

#include "common/tree_attention.h"

namespace vispec::cpu {

constexpr int kBlockKeys = 64;  // their scores for 48 rows, 12 KiB, stay in the first-level cache
constexpr int kMaskWords = kMaxNodes / 32;

// What the queries of one sequence see.
struct Visibility {
  int32_t first_row, end_row;          // prefix rows that some query sees
  int32_t common_row;                  // from this prefix row on every query sees all of them
  std::vector<int32_t> first_visible;  // [M] first prefix row that a query sees
  std::vector<uint32_t> paths;         // [M, kMaskWords] tree rows that a query sees
  std::vector<int32_t> tree_rows;      // tree rows that some query sees, ascending
};

// Some of the query rows of one KV head (row = M * query head in the group + query) against some of its keys.
struct AttentionTask {
  const TreeAttentionParams* params;
  const Visibility* visibility;
  int seq, kv_head, first_row, num_rows;
  int32_t begin, end;  // prefix rows
  bool with_tree;
};

// The softmax state of a task's rows, one lane each: the largest score so far, in units of log2; the sum of the
// weights; the weighted sum of V rows, [D, stride].
struct AttentionState {
  float *largest, *total, *sum;
  int stride;

  static int64_t size(int stride, int head_dim) { return int64_t{stride} * (2 + head_dim); }
  static AttentionState at(float* memory, int stride) { return {memory, memory + stride, memory + 2 * stride, stride}; }
};

// Per worker: queries [D, stride], scores [kBlockKeys, stride], a factor a lane, and K or V rows in fp32.
struct AttentionScratch {
  float *q, *scores, *factor, *rows;

  static int64_t size(int stride, int head_dim) {
    return int64_t{stride} * (head_dim + kBlockKeys + 1) + int64_t{kBlockKeys} * head_dim;
  }
  static AttentionScratch at(float* memory, int stride, int head_dim) {
    float *scores = memory + int64_t{stride} * head_dim, *factor = scores + int64_t{stride} * kBlockKeys;
    return {memory, scores, factor, factor + stride};
  }
};

}  // namespace vispec::cpu
