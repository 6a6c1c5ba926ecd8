// Included by foreach_isa.h: select_tokens' loops over the values of one row, for one instruction set.

template <class T>
static float largest_of(const T* x, int n) {
  float largest = kMinusInfinity;
  int nans = 0;
#pragma omp simd reduction(max : largest) reduction(+ : nans)
  for (int i = 0; i < n; ++i) {
    const float value = to_float(x[i]);
    largest = value > largest ? value : largest;
    nans += value != value;
  }
  return nans > 0 ? kNaN : largest;
}

template <class T>
static void convert_row(const T* logits, int n, float* x) {
#pragma omp simd
  for (int i = 0; i < n; ++i) x[i] = to_float(logits[i]);
}

static float cool_block(float* x, float temperature) {
  float largest = kMinusInfinity;
#pragma omp simd reduction(max : largest)
  for (int i = 0; i < kValueBlock; ++i) {
    x[i] = cool(x[i], temperature);
    largest = x[i] > largest ? x[i] : largest;
  }
  return largest;
}

static double mass_of(const float* x, int64_t n, float max) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += exp_nonpositive(x[i] - max);
  return sum;
}

static bool draw_block(const float* x, float max, float best_above_max, const DrawKey& key, int first,
                       uint32_t* words) {
  const DrawKey k = key;  // a copy in registers: the words written might alias the original
#pragma omp simd
  for (int i = 0; i < kValueBlock / 4; ++i) {
    const PhiloxWords drawn = philox({{static_cast<uint32_t>(first / 4 + i), k.position, k.row, 0}}, k.seed);
    words[4 * i] = drawn.word[0];  // four stores and no loop: so gcc vectorises them
    words[4 * i + 1] = drawn.word[1];
    words[4 * i + 2] = drawn.word[2];
    words[4 * i + 3] = drawn.word[3];
  }
  int reaching = 0;
#pragma omp simd reduction(+ : reaching)
  for (int i = 0; i < kValueBlock; ++i) reaching += may_reach(best_above_max - (x[i] - max), words[i]);
  return reaching > 0;
}

template <class T>
static RowKernel<T> row_kernel() {
  return {&largest_of<T>, &convert_row<T>, &cool_block, &mass_of, &draw_block};
}
