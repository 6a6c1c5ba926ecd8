// Included by foreach_isa.h: one task of the CPU's tree attention, for one instruction set.
//
// Vectors run over query rows: scores are held as [key, row], sums as [D, row]. So K and V are read as they lie in the
// cache, one element broadcast at a time; the softmax has no sum across lanes; and a mask bit is one shift of a lane's
// word. Both products are the same small matrix multiplication.

constexpr int kLanes = VISPEC_LANES;
constexpr int kTileRows = VISPEC_REGISTERS / 4;  // times three vectors: three quarters of the registers accumulate
constexpr int kTileVecs = 3;
constexpr int kPart = 32;  // halves the error of D = 128 for 2% of the time

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IntVec __attribute__((vector_size(4 * kLanes)));

inline Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }
inline Vec broadcast(float x) { return Vec{} + x; }

// 2^x for x <= 126, within 2e-7 of it; below -126: 0.
inline Vec exp2(Vec x) {
  const Vec shifted = x + 0x1.8p23f;  // its low bits are the integer nearest to x
  const Vec f = x - (shifted - 0x1.8p23f);
  Vec p = f * 1.53458116e-4f + 1.33999312e-3f;
  p = p * f + 9.61848896e-3f;
  p = p * f + 5.55032878e-2f;
  p = p * f + 2.40226469e-1f;
  p = p * f + 6.93147206e-1f;
  p = p * f + 1.0f;
  return x < -126.0f ? Vec{} : (Vec)((IntVec)p + ((IntVec)shifted << 23));
}

inline Vec tanh(Vec x) {
  const Vec square = x * x;
  Vec p = square * -6.14912e-3f + 2.098024e-2f;  // for small x, where the other form would cancel
  p = p * square - 5.382862e-2f;
  p = p * square + 1.3332327e-1f;
  p = p * square - 3.3333307e-1f;
  const Vec magnitude = x < 0 ? -x : x;
  const Vec bounded = magnitude > 15.0f ? broadcast(15.0f) : magnitude;
  const Vec large = 1.0f - 2.0f / (exp2(bounded * 2.88539008f) + 1.0f);
  return magnitude < 0.5625f ? x + x * square * p : (x < 0 ? -large : large);
}

// Memory to ask for while multiplying: `bytes` more of it at every step. Products walk K and V along columns, which
// hardware prefetchers do not follow; asked for all at once it would fill the queue and stall.
struct Ahead {
  const char* data;
  int64_t bytes;
};

// c[i, :] = sum over k of a[i * a_row + k * a_col] * b[k, :], or that plus factor[:] * c[i, :]; b and c have one
// stride. Summed by parts of at most kPart: rounding then grows with a part's length and the number of parts, not their
// product.
template <int kRows, int kVecs, bool kAdd>
inline void multiply_tile(const float* a, int64_t a_row, int64_t a_col, const float* b, int depth, float* c, int stride,
                          const float* factor, Ahead ahead) {
  for (int begin = 0; begin < depth; begin += kPart) {
    const int end = depth - begin < kPart ? depth : begin + kPart;
    Vec sum[kRows][kVecs];
    for (int i = 0; i < kRows; ++i) {
      for (int v = 0; v < kVecs; ++v) sum[i][v] = Vec{};
    }
    for (int k = begin; k < end; ++k) {
      Vec row[kVecs];
      for (int v = 0; v < kVecs; ++v) row[v] = load(b + int64_t{k} * stride + v * kLanes);
      __builtin_prefetch(ahead.data + k * ahead.bytes, 0, 2);  // to the second-level cache: the first is in use
      for (int i = 0; i < kRows; ++i) {
        const float x = a[i * a_row + k * a_col];
        for (int v = 0; v < kVecs; ++v) sum[i][v] += x * row[v];
      }
    }
    for (int i = 0; i < kRows; ++i) {
      for (int v = 0; v < kVecs; ++v) {
        float* to = c + i * stride + v * kLanes;
        if (begin > 0) {
          sum[i][v] += load(to);
        } else if (kAdd) {
          sum[i][v] += load(factor + v * kLanes) * load(to);
        }
        store(to, sum[i][v]);
      }
    }
  }
}

template <int kVecs, bool kAdd>
void multiply_columns(const float* a, int64_t a_row, int64_t a_col, const float* b, int rows, int depth, float* c,
                      int stride, const float* factor, Ahead ahead) {
  int i = 0;
  for (; i + kTileRows <= rows; i += kTileRows) {
    multiply_tile<kTileRows, kVecs, kAdd>(a + i * a_row, a_row, a_col, b, depth, c + i * stride, stride, factor, ahead);
    ahead.data += depth * ahead.bytes;
  }
  if (!kAdd && i < rows &&
      rows >= kTileRows) {  // the last whole tile again, shifted: dearer than a row, cheaper than two
    i = rows - kTileRows;
    multiply_tile<kTileRows, kVecs, kAdd>(a + i * a_row, a_row, a_col, b, depth, c + i * stride, stride, factor, ahead);
    return;
  }
  for (; i < rows; ++i) {
    multiply_tile<1, kVecs, kAdd>(a + i * a_row, a_row, a_col, b, depth, c + i * stride, stride, factor, ahead);
  }
}

// As multiply_tile, for any number of rows and vectors.
template <bool kAdd>
void multiply(const float* a, int64_t a_row, int64_t a_col, const float* b, int rows, int depth, float* c, int stride,
              int vecs, const float* factor, Ahead ahead) {
  for (int v = 0; v < vecs; v += kTileVecs) {
    const float *bv = b + v * kLanes, *fv = factor + v * kLanes;
    float* cv = c + v * kLanes;
    if (vecs - v >= 3) {
      multiply_columns<3, kAdd>(a, a_row, a_col, bv, rows, depth, cv, stride, fv, ahead);
    } else if (vecs - v == 2) {
      multiply_columns<2, kAdd>(a, a_row, a_col, bv, rows, depth, cv, stride, fv, ahead);
    } else {
      multiply_columns<1, kAdd>(a, a_row, a_col, bv, rows, depth, cv, stride, fv, ahead);
    }
  }
}

// Where some K or V rows lie in fp32.
struct Rows {
  const float* data;
  int64_t stride;
};

template <class T>
inline void convert(const char* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(reinterpret_cast<const T*>(from)[i]);
}

// The prefix rows [begin, begin + count): in place, or converted.
template <class T>
Rows prefix_rows(const AttentionTask& task, const char* cache, int32_t begin, int count, float* scratch) {
  const TreeAttentionParams& p = *task.params;
  const char* first = cache + offset(p.cache, task.seq, task.kv_head, begin);
  if (sizeof(T) == sizeof(float)) {
    return {reinterpret_cast<const float*>(first), p.cache.row / static_cast<int64_t>(sizeof(float))};
  }
  for (int i = 0; i < count; ++i) convert<T>(first + i * p.cache.row, scratch + i * p.head_dim, p.head_dim);
  return {scratch, p.head_dim};
}

// The rows from `begin` on, if they lie close together: a whole block's worth in a multiplication's steps.
template <class T>
Ahead rows_ahead(const AttentionTask& task, const char* cache, int32_t begin) {
  const TreeAttentionParams& p = *task.params;
  const bool close = p.cache.row == p.head_dim * static_cast<int64_t>(sizeof(T));
  return {cache + offset(p.cache, task.seq, task.kv_head, begin), close ? kTileRows * int64_t{sizeof(T)} : 0};
}

// The given tree rows, copied: those between them, which nobody sees, may hold NaN.
template <class T>
Rows tree_rows(const AttentionTask& task, const char* cache, const int32_t* rows, int count, float* scratch) {
  const TreeAttentionParams& p = *task.params;
  const char* first = cache + offset(p.cache, task.seq, task.kv_head, p.cache_len[task.seq]);
  for (int i = 0; i < count; ++i) convert<T>(first + rows[i] * p.cache.row, scratch + i * p.head_dim, p.head_dim);
  return {scratch, p.head_dim};
}

// Zeroes the rows that hold an infinity or NaN and notes which; whether there are any.
inline bool take_out_overflowed(float* rows, int count, int head_dim, bool* overflowed) {
  bool any = false;
  for (int n = 0; n < count; ++n) {
    float* row = rows + n * head_dim;
    float check = 0;
    for (int d = 0; d < head_dim; ++d) check += row[d] * 0.0f;
    overflowed[n] = check != 0;  // also NaN
    any |= overflowed[n];
    for (int d = 0; overflowed[n] && d < head_dim; ++d) row[d] = 0;
  }
  return any;
}

// A node that overflowed may reach only those that see it. The others' weight for it is 0, and 0 * inf is NaN, so its V
// row stayed out of the product; here it is added lane by lane.
template <class T>
void add_overflowed(const AttentionTask& task, const int32_t* names, int count, const bool* overflowed,
                    const float* weights, const AttentionState& state) {
  const TreeAttentionParams& p = *task.params;
  for (int n = 0; n < count; ++n) {
    const int32_t at = p.cache_len[task.seq] + names[n];
    const T* row = reinterpret_cast<const T*>(p.v_cache + offset(p.cache, task.seq, task.kv_head, at));
    for (int d = 0; overflowed[n] && d < p.head_dim; ++d) {
      for (int lane = 0; lane < task.num_rows; ++lane) {
        const float weight = weights[n * state.stride + lane];
        if (weight != 0) state.sum[d * state.stride + lane] += weight * to_float(row[d]);
      }
    }
  }
}

// scores[n, :] = -inf where query i of a lane does not see prefix row begin + n.
void mask_prefix(const AttentionTask& task, int32_t begin, int count, float* scores, int stride) {
  const int queries = task.params->num_queries;
  for (int row = 0; row < task.num_rows; ++row) {
    const int32_t first = task.visibility->first_visible[(task.first_row + row) % queries];
    for (int n = 0; n < count && begin + n < first; ++n) scores[n * stride + row] = -__builtin_inff();
  }
}

void mask_tree(const AttentionTask& task, const int32_t* rows, int count, float* scores, int stride, int vecs) {
  const int queries = task.params->num_queries;
  int32_t words[kMaskWords][kMaxTaskRows] = {};
  const uint32_t* paths = task.visibility->paths.data();
  for (int row = 0; row < task.num_rows; ++row) {
    for (int w = 0; w < kMaskWords; ++w) {
      words[w][row] = static_cast<int32_t>(paths[(task.first_row + row) % queries * kMaskWords + w]);
    }
  }
  for (int n = 0; n < count; ++n) {
    for (int v = 0; v < vecs; ++v) {
      float* lane = scores + n * stride + v * kLanes;
      IntVec word;
      __builtin_memcpy(&word, words[rows[n] / 32] + v * kLanes, sizeof word);
      const IntVec bit = word >> (rows[n] % 32) & 1;
      store(lane, bit != 0 ? load(lane) : broadcast(-__builtin_inff()));
    }
  }
}

void cap(float cap_log2, float* scores, int count, int stride, int vecs) {
  for (int n = 0; n < count; ++n) {
    for (int v = 0; v < vecs; ++v) {
      float* lane = scores + n * stride + v * kLanes;
      store(lane, cap_log2 * tanh(load(lane)));
    }
  }
}

// Scores to weights, the state's largest and total brought up to date; factor: what the older sum is worth now.
void weigh(float* scores, int count, const AttentionState& state, int vecs, float* factor) {
  for (int v = 0; v < vecs; ++v) {
    float* column = scores + v * kLanes;
    const Vec before = load(state.largest + v * kLanes);
    Vec largest = before;
    for (int n = 0; n < count; ++n) {
      const Vec score = load(column + n * state.stride);
      largest = score > largest ? score : largest;
    }
    store(state.largest + v * kLanes, largest);
    const Vec base = largest == -__builtin_inff() ? Vec{} : largest;  // nothing seen yet: -inf - -inf would be NaN
    Vec total{};
    for (int n = 0; n < count; ++n) {
      const Vec weight = exp2(load(column + n * state.stride) - base);
      store(column + n * state.stride, weight);
      total += weight;
    }
    const Vec kept = exp2(before - base);
    store(factor + v * kLanes, kept);
    store(state.total + v * kLanes, kept * load(state.total + v * kLanes) + total);
  }
}

// The task's queries as [D, row] in fp32, lanes without a row 0; scores come out in units of log2.
template <class T>
void pack_queries(const AttentionTask& task, float* q, int stride) {
  const TreeAttentionParams& p = *task.params;
  const int group = p.num_heads / p.num_kv_heads;
  const float factor = p.softcap > 0 ? p.scale / p.softcap : p.scale * kLog2E;
  for (int row = 0; row < stride; ++row) {
    const int index = task.first_row + row, head = task.kv_head * group + index / p.num_queries;
    const char* from = p.q + offset(p.q_strides, task.seq, head, index % p.num_queries);
    for (int d = 0; d < p.head_dim; ++d) {
      const float x = row < task.num_rows ? to_float(*reinterpret_cast<const T*>(from + d * p.q_element)) : 0;
      q[d * stride + row] = x * factor;
    }
  }
}

// One block of keys: the tree rows named, or without names the prefix rows from `begin` on.
template <class T>
void attend_block(const AttentionTask& task, int32_t begin, const int32_t* names, int count,
                  const AttentionScratch& scratch, const AttentionState& state) {
  const TreeAttentionParams& p = *task.params;
  const int vecs = (task.num_rows + kLanes - 1) / kLanes, stride = state.stride;
  const Ahead nothing = {p.k_cache, 0};
  const Rows k = names ? tree_rows<T>(task, p.k_cache, names, count, scratch.rows)
                       : prefix_rows<T>(task, p.k_cache, begin, count, scratch.rows);
  multiply<false>(k.data, k.stride, 1, scratch.q, count, p.head_dim, scratch.scores, stride, vecs, nullptr,
                  names ? nothing : rows_ahead<T>(task, p.v_cache, begin));
  if (p.softcap > 0) cap(p.softcap * kLog2E, scratch.scores, count, stride, vecs);
  if (names) {
    mask_tree(task, names, count, scratch.scores, stride, vecs);
  } else if (begin < task.visibility->common_row) {
    mask_prefix(task, begin, count, scratch.scores, stride);
  }
  weigh(scratch.scores, count, state, vecs, scratch.factor);
  const Rows v = names ? tree_rows<T>(task, p.v_cache, names, count, scratch.rows)
                       : prefix_rows<T>(task, p.v_cache, begin, count, scratch.rows);
  bool overflowed[kBlockKeys];
  const bool overflow = names && take_out_overflowed(scratch.rows, count, p.head_dim, overflowed);
  multiply<true>(v.data, 1, v.stride, scratch.scores, p.head_dim, count, state.sum, stride, vecs, scratch.factor,
                 names ? nothing : rows_ahead<T>(task, p.k_cache, begin + count));
  if (overflow) add_overflowed<T>(task, names, count, overflowed, scratch.scores, state);
}

template <class T>
void attend(const AttentionTask& task, const AttentionScratch& scratch, const AttentionState& state) {
  pack_queries<T>(task, scratch.q, state.stride);
  for (int i = 0; i < state.stride; ++i) state.largest[i] = -__builtin_inff(), state.total[i] = 0;
  for (int i = 0; i < state.stride * task.params->head_dim; ++i) state.sum[i] = 0;
  for (int32_t begin = task.begin; begin < task.end; begin += kBlockKeys) {
    const int count = task.end - begin < kBlockKeys ? task.end - begin : kBlockKeys;
    attend_block<T>(task, begin, nullptr, count, scratch, state);
  }
  const std::vector<int32_t>& seen = task.visibility->tree_rows;
  const int num_seen = task.with_tree ? static_cast<int>(seen.size()) : 0;
  for (int begin = 0; begin < num_seen; begin += kBlockKeys) {
    const int count = num_seen - begin < kBlockKeys ? num_seen - begin : kBlockKeys;
    attend_block<T>(task, 0, seen.data() + begin, count, scratch, state);
  }
}

// Merges the states of a block of rows over all splits (`next` floats apart) into the first, and writes the output.
template <class T>
void finish(const AttentionTask& task, float* states, int64_t next, int splits, int stride) {
  const TreeAttentionParams& p = *task.params;
  const int vecs = (task.num_rows + kLanes - 1) / kLanes, group = p.num_heads / p.num_kv_heads;
  const AttentionState first = AttentionState::at(states, stride);
  for (int v = 0; v < vecs * kLanes; v += kLanes) {
    Vec largest = load(first.largest + v), total{};
    for (int s = 1; s < splits; ++s) {
      const Vec other = load(AttentionState::at(states + s * next, stride).largest + v);
      largest = other > largest ? other : largest;
    }
    const Vec base = largest == -__builtin_inff() ? Vec{} : largest;
    for (int s = 0; s < splits; ++s) {
      const AttentionState part = AttentionState::at(states + s * next, stride);
      const Vec weight = exp2(load(part.largest + v) - base);
      total += weight * load(part.total + v);
      store(part.largest + v, weight);
    }
    const Vec inverse = total == 0 ? Vec{} : 1 / total;  // a row that sees nothing: 0
    for (int d = 0; d < p.head_dim; ++d) {
      Vec sum{};
      for (int s = 0; s < splits; ++s) {
        const AttentionState part = AttentionState::at(states + s * next, stride);
        sum += load(part.largest + v) * load(part.sum + d * stride + v);
      }
      store(first.sum + d * stride + v, sum * inverse);
    }
  }
  for (int row = 0; row < task.num_rows; ++row) {
    const int index = task.first_row + row, head = task.kv_head * group + index / p.num_queries;
    const int64_t query = int64_t{task.seq} * p.num_queries + index % p.num_queries;
    T* out = reinterpret_cast<T*>(p.out) + (query * p.num_heads + head) * p.head_dim;
    for (int d = 0; d < p.head_dim; ++d) out[d] = from_float<T>(first.sum[d * stride + row]);
  }
}
