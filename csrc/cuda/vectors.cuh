// Copies of rows by the widest loads that their addresses allow.
#pragma once

#include <cstdint>

#include "common/layout.h"
#include "cuda/launch.cuh"

namespace vispec::cuda {

// Bits of everything that a vector's address is made of; the lowest one set says how wide vectors can be.
inline uint64_t address_bits(const void* base, const Strides& strides) {
  return reinterpret_cast<uintptr_t>(base) | strides.seq | strides.head | strides.row;
}

// 16, 8, 4 or 2 bytes: no element is smaller.
inline int vector_bytes(uint64_t bits) { return bits % 16 == 0 ? 16 : bits % 8 == 0 ? 8 : bits % 4 == 0 ? 4 : 2; }

// Calls body.operator()<Vec>() with the type of that many bytes.
template <class Body>
__host__ __device__ __forceinline__ auto dispatch_vector(int bytes, const Body& body) {
  switch (bytes) {
    case 16:
      return body.template operator()<uint4>();
    case 8:
      return body.template operator()<uint2>();
    case 4:
      return body.template operator()<uint32_t>();
    default:
      return body.template operator()<uint16_t>();
  }
}

}  // namespace vispec::cuda
