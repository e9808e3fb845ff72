// The kernels, written once over `Lanes`, which an instruction set's file defines before it includes this one:
//
//   Lanes::kRows         pixels of a tile
//   Lanes::kWords        how many words a Counts can take before it must be gathered
//   Lanes::Counts        differing bits of kBlock filters at one pixel, all 0 to begin with
//   Lanes::add(c, w, x)  count the bits in which word x differs from the words w[0..kBlock)
//   Lanes::gather(c)     add the counts to totals that can take any number
//   Lanes::integers(c, k, y)   gather, then y[f] = k - 2 totals[f] for kBlock filters
//   Lanes::differing(x, w, n)  bits in which n words differ
//   Lanes::below(y, limits)    a word: bit f where y[f] < limits[f]
//   Lanes::signs(x)            a word: bit i where x[i] is not above -(least normal number), of 32 floats
#pragma once

#include <float.h>
#include <string.h>

#include "kernels.h"

namespace bnn {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The taps of one pixel that lie inside the image: `segments` runs of `length` words, each a step after the last one.
struct Taps {
  int64_t segments, length, x_step, w_step;
};

// Differing bits of a block of filters at R pixels, x_pixel words apart.
template <int R>
inline void count(const Taps& taps, const uint32_t* x, int64_t x_pixel, const uint32_t* w, Lanes::Counts (&counts)[R]) {
  const auto add = [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k)
      for (int r = 0; r < R; ++r) Lanes::add(counts[r], w + k * kBlock, x[r * x_pixel + k]);
  };
  if (taps.segments * taps.length <= Lanes::kWords) {
    for (int64_t s = 0; s < taps.segments; ++s, x += taps.x_step, w += taps.w_step) add(0, taps.length);
    return;
  }
  int64_t space = Lanes::kWords;
  for (int64_t s = 0; s < taps.segments; ++s, x += taps.x_step, w += taps.w_step)
    for (int64_t k = 0; k < taps.length;) {
      if (space == 0) {
        for (int r = 0; r < R; ++r) Lanes::gather(counts[r]);
        space = Lanes::kWords;
      }
      const int64_t stop = k + least(space, taps.length - k);
      space -= stop - k;
      add(k, stop);
      k = stop;
    }
}

// Where the taps [*begin, *end) of a window lie that starts `start` pixels from the first of `extent`.
inline void inside(int64_t start, int64_t size, int64_t extent, int64_t* begin, int64_t* end) {
  *begin = least(most(-start, 0), size);
  *end = most(least(extent - start, size), *begin);
}

// A block's counts of one pixel, k products each, written as integers or as signs.
inline void store(Lanes::Counts& counts, int64_t k, const Result& to, int64_t block, int64_t pixel, int64_t out) {
  const int64_t filters = least(kBlock, out - block * kBlock);
  if (to.thresholds == nullptr && filters == kBlock)
    return Lanes::integers(counts, static_cast<int32_t>(k), to.integers + pixel * out + block * kBlock);
  alignas(64) int32_t y[kBlock];
  Lanes::integers(counts, static_cast<int32_t>(k), y);
  if (to.thresholds == nullptr) {
    memcpy(to.integers + pixel * out + block * kBlock, y, filters * sizeof(int32_t));
    return;
  }
  const int32_t* limits = to.thresholds + block * kBlock;
  alignas(64) int32_t some[kBlock];
  if (filters < kBlock) {
    for (int f = 0; f < kBlock; ++f) some[f] = f < filters ? limits[f] : INT32_MIN;
    limits = some;
  }
  to.signs[pixel * ceil_div(out, kBlock) + block] = Lanes::below(y, limits) ^ to.flip[block];
}

template <int R>
inline void tile(const Convolution& c, const Taps& taps, const uint32_t* x, const uint32_t* w, const Result& to,
                 int64_t block, int64_t pixel, int64_t k) {
  Lanes::Counts counts[R] = {};
  count<R>(taps, x, c.stride_w * c.words, w, counts);
  for (int r = 0; r < R; ++r) store(counts[r], k, to, block, pixel + r, c.out);
}

void convolve(const Convolution& c, const Weights& weights, const Result& to, int64_t block, int64_t first,
              int64_t last, uint32_t* room) {
  // The block's weights, contiguous: they are read once for every pixel.
  const int64_t filters = least(kBlock, c.out - block * kBlock), depth = c.size_h * c.size_w * c.words;
  const uint32_t* from = weights.words + block * kBlock * weights.filter_step;
  for (int64_t k = 0; k < depth; ++k) {
    uint32_t* line = room + k * kBlock;
    if (weights.filter_step == 1 && filters == kBlock) {
      memcpy(line, from + k * weights.word_step, kBlock * sizeof(uint32_t));
      continue;
    }
    for (int64_t f = 0; f < kBlock; ++f)
      line[f] = f < filters ? from[k * weights.word_step + f * weights.filter_step] : 0;
  }
  for (int64_t line = first; line < last; ++line) {
    const int64_t image = line / c.rows, y0 = line % c.rows * c.stride_h - c.top;
    int64_t i0, i1;
    inside(y0, c.size_h, c.height, &i0, &i1);
    for (int64_t column = 0; column < c.columns;) {
      const int64_t x0 = column * c.stride_w - c.left;
      int64_t j0, j1;
      inside(x0, c.size_w, c.width, &j0, &j1);
      const Taps taps = {i1 - i0, (j1 - j0) * c.words, c.width * c.words, c.size_w * c.words * kBlock};
      const int64_t k = (i1 - i0) * (j1 - j0) * c.channels;
      const uint32_t* x = c.x + ((image * c.height + y0 + i0) * c.width + x0 + j0) * c.words;
      const uint32_t* w = room + (i0 * c.size_w + j0) * c.words * kBlock;
      const int64_t pixel = line * c.columns + column;
      const int64_t beyond = x0 + (Lanes::kRows - 1) * c.stride_w + c.size_w;
      const bool whole = x0 >= 0 && beyond <= c.width && column + Lanes::kRows <= c.columns;
      if (whole)
        tile<Lanes::kRows>(c, taps, x, w, to, block, pixel, k);
      else
        tile<1>(c, taps, x, w, to, block, pixel, k);
      column += whole ? Lanes::kRows : 1;
    }
  }
}

void dot(const uint32_t* x, int64_t rows, const uint32_t* w, int64_t words, int32_t k, int32_t* y, int64_t out,
         int64_t first, int64_t last) {
  for (int64_t f = first; f < last; ++f)
    for (int64_t row = 0; row < rows; ++row)
      y[row * out + f] = k - 2 * static_cast<int32_t>(Lanes::differing(x + row * words, w + f * words, words));
}

void pack(const float* x, const float* coefficients, int64_t channels, uint32_t* words, int64_t first, int64_t last) {
  alignas(64) float values[32];
  const float* scale = coefficients;
  const float* shift = coefficients == nullptr ? nullptr : coefficients + channels;
  for (int64_t row = first; row < last; ++row)
    for (int64_t c = 0; c < channels; c += 32) {
      const float* from = x + row * channels + c;
      const int64_t n = least(32, channels - c);
      if (n < 32 || scale != nullptr) {
        for (int64_t i = n; i < 32; ++i) values[i] = 0;
        if (scale == nullptr)
          memcpy(values, from, n * sizeof(float));
        else
          for (int64_t i = 0; i < n; ++i)
            values[i] = scale[c + i] == 0 ? shift[c + i] : (from[i] + shift[c + i]) * scale[c + i];
        from = values;
      }
      *words++ = Lanes::signs(from);
    }
}

int64_t limit(int64_t times) {
  constexpr int64_t kDepth = 72;
  static uint32_t x[Lanes::kRows * kDepth], w[kDepth * kBlock];
  const Taps taps = {1, kDepth, 0, 0};
  alignas(64) int32_t y[Lanes::kRows][kBlock] = {};
  for (int64_t i = 0; i < times; ++i) {
    Lanes::Counts counts[Lanes::kRows] = {};
    count<Lanes::kRows>(taps, x, kDepth, w, counts);
    for (int r = 0; r < Lanes::kRows; ++r) Lanes::integers(counts[r], 0, y[r]);
    asm volatile("" : : "r"(y), "r"(x), "r"(w) : "memory");  // Else the compiler sees that all rounds are one.
  }
  return times * Lanes::kRows * kDepth * 32 * kBlock;
}

constexpr Kernels kKernels = {convolve, dot, pack, limit};

}  // namespace
}  // namespace bnn
