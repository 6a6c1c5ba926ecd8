// The way into a launcher from Python: VISPEC_LAUNCHER, with VISPEC_PARAMS as its first argument.
#include <cstdint>
#include <exception>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "block.h"
#include VISPEC_HEADER

namespace {

// Between the parameters and the stream a launcher may take pointers, numbers and references to structs: `extras`, 8
// bytes each, a reference's being the address.
template <class T>
T extra(uint64_t bits) {
  if constexpr (std::is_reference_v<T>) {
    return *reinterpret_cast<std::remove_reference_t<T>*>(bits);
  } else if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<T>(bits);
  } else {
    return static_cast<T>(bits);
  }
}

template <class... A>
cudaError_t call(cudaError_t (*launcher)(A...), const void* params, const uint64_t* extras) {
  using Arguments = std::tuple<A...>;
  constexpr int kExtras = sizeof...(A) - 2;
  return [&]<int... I>(std::integer_sequence<int, I...>) {
    return launcher(*static_cast<const VISPEC_PARAMS*>(params),
                    extra<std::tuple_element_t<I + 1, Arguments>>(extras[I])..., nullptr);
  }(std::make_integer_sequence<int, kExtras>());
}

template <class... A>
constexpr int num_extras(cudaError_t (*)(A...)) {
  return sizeof...(A) - 2;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int vispec_params_bytes() { return sizeof(VISPEC_PARAMS); }

extern "C" __attribute__((visibility("default"))) int vispec_num_extras() { return num_extras(VISPEC_LAUNCHER); }

// What went wrong, or null; valid until the next call.
extern "C" __attribute__((visibility("default"))) const char* vispec_run(const void* params, const uint64_t* extras,
                                                                         const vispec::host::Schedule* schedule) {
  static std::string text;
  vispec::host::schedule = *schedule;
  try {
    const cudaError_t error = call(VISPEC_LAUNCHER, params, extras);
    if (error == cudaSuccess) return nullptr;
    text = "the launcher returned cudaError_t " + std::to_string(error);
  } catch (const std::exception& error) {
    text = error.what();
  }
  return text.c_str();
}
