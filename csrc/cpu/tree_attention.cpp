#include "common/tree_attention.h"

#include <stdexcept>

namespace vispec::cpu {

void tree_attention(const TreeAttentionParams& p) {
  if (p.batch > 0) throw std::logic_error("tree_attention: the CPU kernel comes with the next commit");
}

}  // namespace vispec::cpu
