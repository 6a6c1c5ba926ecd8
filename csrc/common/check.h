// Errors in a caller's arguments: std::invalid_argument, which Python sees as ValueError with the text alone.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace vispec {

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

}  // namespace vispec

// Not inside a parallel_for: there the text would be lost.
#define VISPEC_CHECK(condition, ...) \
  if (!(condition)) throw std::invalid_argument(::vispec::text(__VA_ARGS__))
