// Why a file, an image or a call is refused: a sentence for whoever called, which runtime.cc hands on.
#pragma once

#include <stdexcept>
#include <string>

namespace bnn {

struct Refused : std::runtime_error {
  explicit Refused(const std::string& reason) : std::runtime_error(reason) {}
};

}  // namespace bnn
