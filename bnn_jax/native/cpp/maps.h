// What the runtime does with a map number by number, written once: each instruction set's file compiles it for itself. Every
// operation is rounded before the next (docs/format.md): no file is compiled with contraction.
#pragma once

#include <float.h>

#include "tiles.h"

// Before a loop over numbers whose result may lie where its operand does: no number depends on another one.
#if defined(__clang__)
#define BNN_EACH _Pragma("clang loop vectorize(assume_safety)")
#else
#define BNN_EACH _Pragma("GCC ivdep")
#endif

namespace bnn {
namespace {

// Integers whose place the floats may take that are made of them.
typedef int32_t Integer __attribute__((may_alias));

template <typename Number>
inline void epilogue(const Number* x, const float* scale, const float* k, const float* bias, float* y, int64_t channels,
                     int64_t pixels) {
  for (int64_t p = 0; p < pixels; ++p, x += channels, y += channels) {
    if (scale != nullptr && bias != nullptr && k == nullptr) {
      BNN_EACH
      for (int64_t c = 0; c < channels; ++c) y[c] = static_cast<float>(x[c]) * scale[c] + bias[c];
      continue;
    }
    if (scale != nullptr) {
      BNN_EACH
      for (int64_t c = 0; c < channels; ++c) y[c] = static_cast<float>(x[c]) * scale[c];
    } else {
      BNN_EACH
      for (int64_t c = 0; c < channels; ++c) y[c] = static_cast<float>(x[c]);
    }
    if (k != nullptr) {
      BNN_EACH
      for (int64_t c = 0; c < channels; ++c) y[c] = y[c] * k[p];
    }
    if (bias != nullptr) {
      BNN_EACH
      for (int64_t c = 0; c < channels; ++c) y[c] = y[c] + bias[c];
    }
  }
}

void of_integers(const int32_t* x, const float* scale, const float* k, const float* bias, float* y, int64_t channels,
                 int64_t pixels) {
  epilogue(reinterpret_cast<const Integer*>(x), scale, k, bias, y, channels, pixels);
}

void of_floats(const float* x, const float* scale, const float* k, const float* bias, float* y, int64_t channels,
               int64_t pixels) {
  epilogue(x, scale, k, bias, y, channels, pixels);
}

void normalize(const float* x, const float* coefficients, float* y, int64_t channels, int64_t pixels) {
  const float *scale = coefficients, *shift = coefficients + channels;
  for (int64_t p = 0; p < pixels; ++p, x += channels, y += channels)
    BNN_EACH
    for (int64_t c = 0; c < channels; ++c) {
      const float number = (x[c] + shift[c]) * scale[c];
      y[c] = scale[c] == 0 ? shift[c] : number;
    }
}

void add(const float* a, const float* b, float* y, int64_t n) {
  BNN_EACH
  for (int64_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
}

void relu(const float* x, float* y, int64_t n) {
  BNN_EACH
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] < 0 ? 0 : x[i];
}

void hard_tanh(const float* x, float* y, int64_t n) {
  BNN_EACH
  for (int64_t i = 0; i < n; ++i) {
    const float above = x[i] < -1 ? -1 : x[i];
    y[i] = above > 1 ? 1 : above;
  }
}

void leaky_relu(const float* x, float slope, float* y, int64_t n) {
  BNN_EACH
  for (int64_t i = 0; i < n; ++i) {
    const float below = x[i] * slope;
    y[i] = x[i] > 0 ? x[i] : below;
  }
}

void prelu(const float* x, const float* slopes, float* y, int64_t channels, int64_t pixels) {
  for (int64_t p = 0; p < pixels; ++p, x += channels, y += channels)
    BNN_EACH
    for (int64_t c = 0; c < channels; ++c) {
      const float below = x[c] * slopes[c];
      y[c] = x[c] > 0 ? x[c] : below;
    }
}

void highest(const float* x, float* y, int64_t n) {
  BNN_EACH
  for (int64_t i = 0; i < n; ++i) y[i] = y[i] < x[i] ? x[i] : y[i];
}

// The words of (y < thresholds) ^ flip.
void compare(const int32_t* y, const int32_t* thresholds, const uint32_t* flip, uint32_t* words, int64_t channels,
             int64_t pixels) {
  const Result to = {nullptr, thresholds, flip, words};
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t c = 0; c < channels; c += kBlock) {
      alignas(64) int32_t some[kBlock] = {};
      const int32_t* at = y + p * channels + c;
      if (channels - c < kBlock) {
        memcpy(some, at, (channels - c) * sizeof(int32_t));
        at = some;
      }
      write(at, to, c / kBlock, p, channels);
    }
}

constexpr MapKernels kMapKernels = {of_integers, of_floats, normalize, add,     relu,
                                    hard_tanh,   leaky_relu, prelu,    highest, compare};

}  // namespace
}  // namespace bnn
