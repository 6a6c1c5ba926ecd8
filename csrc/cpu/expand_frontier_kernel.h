// Included by foreach_isa.h: expand_frontier's loops over a block of one row, for one instruction set.

// Largest of n logits, which are written to x with NaN as minus infinity.
template <class T>
static float load_block(const T* logits, int n, float* x) {
  float largest = kMinusInfinity;
#pragma omp simd reduction(max : largest)
  for (int i = 0; i < n; ++i) {
    const float value = to_float(logits[i]);
    x[i] = value > kMinusInfinity ? value : kMinusInfinity;
    largest = x[i] > largest ? x[i] : largest;
  }
  return largest;
}

static float sum_exp(const float* x, int n, float max) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < n; ++i) sum += exp_nonpositive(x[i] - max);
  return sum;
}

// Bit g set: group g holds a value above `bound`.
static uint32_t groups_above(const float* x, float bound) {
  uint32_t groups = 0;
  for (int g = 0; g < kBlock / kGroup; ++g) {
    int above = 0;
#pragma omp simd reduction(+ : above)
    for (int i = 0; i < kGroup; ++i) above += x[g * kGroup + i] > bound;
    groups |= static_cast<uint32_t>(above > 0) << g;
  }
  return groups;
}

template <class T>
static BlockKernel<T> block_kernel() {
  return {&load_block<T>, &sum_exp, &groups_above};
}
