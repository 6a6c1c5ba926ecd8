// Checks of tensor arguments and their translation into parameter structs, for every back end.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <string>
#include <vector>

#include "common/check.h"
#include "common/layout.h"

namespace vispec {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using In = const Tensor&;

inline const char* name(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    default:
      return torch::headeronly::toString(type);
  }
}

inline std::string name(const torch::stable::Device& device) {
  if (device.is_cpu()) return "cpu";
  if (device.is_cuda()) return text("cuda:", device.index());
  return text("device type ", static_cast<int>(device.type()));
}

template <class Ints>
std::string list(const Ints& values) {
  std::string out = "[";
  for (int64_t value : values) out += (out.size() > 1 ? ", " : "") + std::to_string(value);
  return out + "]";
}

// "float16 [2, 4, 64] on cpu"
template <class Ints>
std::string describe(ScalarType type, const Ints& sizes, const torch::stable::Device& device) {
  return text(name(type), " ", list(sizes), " on ", name(device));
}
inline std::string describe(In t) { return describe(t.scalar_type(), t.sizes(), t.device()); }

inline int dim(In t, int64_t i) {
  const int64_t size = t.size(i);
  VISPEC_CHECK(size <= INT32_MAX, "tensor: expected sizes below 2^31, got ", describe(t));
  return static_cast<int>(size);
}

inline bool is_float(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16;
}

inline void check_float(const char* arg, In t, int64_t num_dims, const char* shape) {
  VISPEC_CHECK(t.dim() == num_dims && is_float(t.scalar_type()), arg, ": expected float32, float16 or bfloat16 ", shape,
               ", got ", describe(t));
}

// A 4-D tensor of rows: D contiguous.
inline void check_rows(const char* arg, In t, const char* shape) {
  check_float(arg, t, 4, shape);
  VISPEC_CHECK(t.size(3) <= 1 || t.stride(3) == 1, arg, ": expected the last dimension contiguous, got strides ",
               list(t.strides()));
}

// Exactly this dtype, shape and device, contiguous.
inline void check_exact(const char* arg, In t, ScalarType type, std::initializer_list<int64_t> sizes, In like) {
  bool fits = t.scalar_type() == type && t.dim() == static_cast<int64_t>(sizes.size()) && t.device() == like.device();
  for (int64_t i = 0; fits && i < t.dim(); ++i) fits = t.size(i) == sizes.begin()[i];
  VISPEC_CHECK(fits, arg, ": expected ", describe(type, sizes, like.device()), ", got ", describe(t));
  VISPEC_CHECK(t.is_contiguous(), arg, ": expected a contiguous tensor, got strides ", list(t.strides()));
}
inline void check_int32(const char* arg, In t, std::initializer_list<int64_t> sizes, In like) {
  check_exact(arg, t, ScalarType::Int, sizes, like);
}
inline void check_int64(const char* arg, In t, std::initializer_list<int64_t> sizes, In like) {
  check_exact(arg, t, ScalarType::Long, sizes, like);
}

// Shape, dtype and device of `other`.
inline void check_same(const char* arg, In t, const char* other_arg, In other) {
  bool fits = t.scalar_type() == other.scalar_type() && t.dim() == other.dim() && t.device() == other.device();
  for (int64_t i = 0; fits && i < t.dim(); ++i) fits = t.size(i) == other.size(i);
  VISPEC_CHECK(fits, arg, ": expected ", describe(other), " as ", other_arg, ", got ", describe(t));
}

// Shape, dtype, device and strides of `other`.
inline void check_like(const char* arg, In t, const char* other_arg, In other) {
  check_same(arg, t, other_arg, other);
  for (int64_t i = 0; i < t.dim(); ++i) {
    VISPEC_CHECK(t.size(i) <= 1 || t.stride(i) == other.stride(i), arg, ": expected strides ", list(other.strides()),
                 " as ", other_arg, ", got ", list(t.strides()));
  }
}

// The dtype and device of `other`, and its size in each of `dims`.
inline void check_agree(const char* arg, In t, const char* other_arg, In other, std::initializer_list<int64_t> dims) {
  VISPEC_CHECK(t.scalar_type() == other.scalar_type() && t.device() == other.device(), arg, ": expected ",
               name(other.scalar_type()), " on ", name(other.device()), " as ", other_arg, ", got ", describe(t));
  for (int64_t i : dims) {
    VISPEC_CHECK(t.size(i) == other.size(i), arg, ": expected size ", other.size(i), " in dimension ", i, " as ",
                 other_arg, ", got ", describe(t));
  }
}

inline DType dtype(In t) {
  return t.scalar_type() == ScalarType::Float  ? DType::kFloat32
         : t.scalar_type() == ScalarType::Half ? DType::kFloat16
                                               : DType::kBFloat16;
}
inline int element_bytes(In t) { return t.scalar_type() == ScalarType::Float ? 4 : 2; }
inline int row_bytes(In t) { return dim(t, 3) * element_bytes(t); }
inline Strides byte_strides(In t) {
  const int64_t element = element_bytes(t);
  return {t.stride(0) * element, t.stride(1) * element, t.stride(2) * element};
}
inline char* bytes(In t) { return static_cast<char*>(t.data_ptr()); }

}  // namespace vispec
