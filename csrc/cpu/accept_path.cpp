// Floor: nothing to speak of, N integers a step.
#include "common/accept_path.h"

#include "cpu/parallel.h"

namespace vispec::cpu {
namespace {

constexpr int64_t kGrain = 64;  // a walk over 64 nodes takes about 0.3 us, waking a thread 5

}  // namespace

void accept_path(const AcceptPathParams& p) {
  parallel_for(p.batch, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t seq = begin; seq < end; ++seq) accept_path_of_sequence(p, static_cast<int>(seq));
  });
}

}  // namespace vispec::cpu
