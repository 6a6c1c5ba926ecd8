// The best of many distinct keys, by a whole block and without a sort: a histogram of one digit after the other, from
// the top.
#pragma once

#include <cstdint>

#include "cuda/launch.cuh"

namespace vispec::cuda {

constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;

struct RadixSelectShared {
  unsigned count[kDigits];
  unsigned digit, wanted, size;  // the digit chosen, how many of its keys are wanted, how many it has
};

// The first warp: the digit, counted from the highest, at which the counts reach `wanted`.
__device__ __forceinline__ void choose_digit(RadixSelectShared& shared, unsigned wanted) {
  constexpr int kPerLane = kDigits / 32;
  const int lane = threadIdx.x, highest = kDigits - 1 - lane * kPerLane;
  unsigned own = 0;
  for (int i = 0; i < kPerLane; ++i) own += shared.count[highest - i];
  unsigned through = own;  // all digits from the top to this lane's last
  for (int step = 1; step < 32; step *= 2) {
    const unsigned before = __shfl_up_sync(0xffffffffu, through, step);
    if (lane >= step) through += before;
  }
  unsigned above = through - own;
  if (above >= wanted || through < wanted) return;
  for (int i = 0; i < kPerLane; ++i) {
    const unsigned size = shared.count[highest - i];
    if (above + size >= wanted) {
      shared.digit = highest - i;
      shared.wanted = wanted - above;
      shared.size = size;
      return;
    }
    above += size;
  }
}

// The bound that exactly `wanted` of n keys reach. key_of(i): n distinct keys; 1 <= wanted <= n.
template <int kThreads, class KeyOf>
__device__ uint64_t bound_of_best(int n, unsigned wanted, const KeyOf& key_of, RadixSelectShared& shared) {
  uint64_t bound = 0, known = 0;  // the digits found so far, and ones in their places
  for (int shift = 64 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    for (int digit = threadIdx.x; digit < kDigits; digit += kThreads) shared.count[digit] = 0;
    __syncthreads();  // the counts start from zero, and the last digit's choice has been read
    for (int i = threadIdx.x; i < n; i += kThreads) {
      const uint64_t key = key_of(i);
      if ((key & known) == bound) atomicAdd(&shared.count[key >> shift & (kDigits - 1)], 1u);
    }
    __syncthreads();  // all keys are counted
    if (threadIdx.x < 32) choose_digit(shared, wanted);
    __syncthreads();  // the choice is known to all
    bound |= uint64_t{shared.digit} << shift;
    known |= uint64_t{kDigits - 1} << shift;
    wanted = shared.wanted;
    if (shared.size == wanted) break;  // every key with these digits is among the best
  }
  return bound;
}

}  // namespace vispec::cuda
