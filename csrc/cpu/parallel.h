// torch's own thread pool.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

namespace vispec::cpu {

// body(begin, end) over parts of [0, count), on as many threads as each get at least `grain`. The body must not throw.
template <class Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
  torch::stable::parallel_for(0, count, grain, body);
}

inline int num_threads() { return static_cast<int>(torch::stable::get_num_threads()); }

}  // namespace vispec::cpu
