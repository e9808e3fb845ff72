// The kernels that differ in nothing but `Lanes`, which an instruction set's file defines before it includes this one:
//
//   Lanes::kVector            words of a vector
//   Lanes::differing(x, w, n)  bits in which n words differ
//   Lanes::kPixels, multiply_add<P>(x, step, n, tile, sums)   sums[p][f] += sum of x[p * step + i] * tile[i][f] over n
//                              channels, added up apart, for P <= kPixels pixels
//   Lanes::signed_sum(x, w, n) sum over the n words of w of 32 x each, minus where the bit is set
//   Lanes::below(y, limits)    a word: bit f where y[f] < limits[f]
//   Lanes::signs(x)            a word: bit i where x[i] is not above -(least normal number), of 32 floats
//   Lanes::signs(x, scale, shift)   the same of (x + shift) * scale, or of shift where scale is 0
//
// And what the two convolutions of words share, in counting.h and lookup.h.
#pragma once

#include <float.h>
#include <string.h>

#include "kernels.h"

namespace bnn {
namespace {

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The taps of one pixel: `rows` times `segments` runs of `length` words (lookup.h: half bytes), each a step after the last one.
// Where the taps of a kernel row touch they are one run; dilated they are a run each. counting.h leaves out what lies outside
// the image, and counts rows that touch as one; lookup.h leaves out rows alone.
struct Taps {
  int64_t segments, length, x_step, w_step;
  int64_t rows, x_row, w_row;
};

// Where the taps [*begin, *end) of a window lie, `step` pixels apart, that starts `start` pixels from the first of `extent`.
inline void inside(int64_t start, int64_t size, int64_t step, int64_t extent, int64_t* begin, int64_t* end) {
  int64_t before = most(-start, 0), within = most(extent - start, 0);
  if (step > 1) before = ceil_div(before, step), within = ceil_div(within, step);
  *begin = least(before, size);
  *end = most(least(within, size), *begin);
}

// A block's integers at one pixel, or their signs, to where they go.
inline void write(const int32_t* y, const Result& to, int64_t block, int64_t pixel, int64_t out) {
  const int64_t filters = least(kBlock, out - block * kBlock);
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

// kBlock filters' word k, where they lie or, unless side by side, in `some`; 0 for filters that are not there.
inline const uint32_t* words_of_block(const Weights& weights, int64_t block, int64_t out, int64_t k, uint32_t* some) {
  const int64_t filters = least(kBlock, out - block * kBlock);
  const uint32_t* from = weights.words + k * weights.word_step + block * kBlock * weights.filter_step;
  if (weights.filter_step == 1 && filters == kBlock) return from;
  for (int64_t f = 0; f < kBlock; ++f) some[f] = f < filters ? from[f * weights.filter_step] : 0;
  return some;
}

// 32 words, a filter each, as signs: tile[i][f] = -1 where bit i of words[f] is set, else +1.
inline void unpack(const uint32_t* words, float* tile) {
  for (int i = 0; i < 32; ++i)
    for (int f = 0; f < kBlock; ++f) {
      const uint32_t one = 0x3f800000u | (words[f] << (31 - i) & 0x80000000u);
      memcpy(tile + i * kBlock + f, &one, sizeof(one));
    }
}

void convolve_floats(const Geometry& g, const float* x, const Weights& weights, float* y, int64_t block, int64_t first,
                     int64_t last, float* room) {
  float *tile = room, *sums = room + 32 * kBlock;
  const int64_t filters = least(kBlock, g.out - block * kBlock);
  // A strip: pixels [p0, p1) of the lines, so many that unpacking a tile costs little beside its products.
  for (int64_t p0 = first * g.columns; p0 < last * g.columns; p0 += kStrip) {
    const int64_t p1 = least(p0 + kStrip, last * g.columns);
    memset(sums, 0, kStrip * kBlock * sizeof(float));
    for (int64_t k = 0; k < g.size_h * g.size_w * g.words; ++k) {
      // Tap (i, j) of the window, in pixels from its first one.
      const int64_t i = k / g.words / g.size_w * g.dilation_h, j = k / g.words % g.size_w * g.dilation_w;
      const int64_t channel = k % g.words * 32;
      const int64_t channels = least(32, g.channels - channel);
      alignas(64) uint32_t some[kBlock];
      unpack(words_of_block(weights, block, g.out, k, some), tile);
      for (int64_t line = p0 / g.columns; line * g.columns < p1; ++line) {
        const int64_t row = line % g.rows * g.stride_h - g.top + i;
        if (row < 0 || row >= g.height) continue;
        // The columns of this line, within the strip, that see tap j inside the image.
        const int64_t from = most(most(0, p0 - line * g.columns), ceil_div(most(0, g.left - j), g.stride_w));
        const int64_t right = g.width - 1 + g.left - j;
        const int64_t to = right < 0 ? 0 : least(least(g.columns, p1 - line * g.columns), right / g.stride_w + 1);
        const float* at = x + ((line / g.rows * g.height + row) * g.width - g.left + j) * g.channels + channel;
        const int64_t step = g.stride_w * g.channels;
        float* sum = sums + (line * g.columns - p0) * kBlock;
        int64_t column = from;
        for (; column + Lanes::kPixels <= to; column += Lanes::kPixels)
          Lanes::multiply_add<Lanes::kPixels>(at + column * step, step, channels, tile, sum + column * kBlock);
        for (; column < to; ++column)
          Lanes::multiply_add<1>(at + column * step, step, channels, tile, sum + column * kBlock);
      }
    }
    for (int64_t p = p0; p < p1; ++p)
      memcpy(y + p * g.out + block * kBlock, sums + (p - p0) * kBlock, filters * sizeof(float));
  }
}

constexpr int64_t kNear = 4096;  // Words, 16 KiB: half of a first-level cache.

void dot(const uint32_t* x, int64_t rows, const uint32_t* w, int64_t words, int64_t k, int32_t* y, int64_t out,
         int64_t first, int64_t last) {
  // A few rows of x at a time, which stay in the first-level cache while all filters pass.
  const int64_t few = most(1, kNear / words);
  for (int64_t r0 = 0; r0 < rows; r0 += few)
    for (int64_t f = first; f < last; ++f)
      for (int64_t row = r0; row < least(r0 + few, rows); ++row)
        y[row * out + f] = static_cast<int32_t>(k - 2 * Lanes::differing(x + row * words, w + f * words, words));
}

void dot_floats(const float* x, int64_t rows, const uint32_t* w, int64_t words, int64_t k, float* y, int64_t out,
                int64_t first, int64_t last) {
  for (int64_t f = first; f < last; ++f)
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t whole = k / 32;
      float sum = Lanes::signed_sum(x + row * k, w + f * words, whole), rest = 0;
      for (int64_t i = 32 * whole; i < k; ++i) rest += w[f * words + whole] >> (i % 32) & 1 ? -x[row * k + i] : x[row * k + i];
      y[row * out + f] = sum + rest;
    }
}

void pack(const float* x, const float* coefficients, int64_t channels, uint32_t* words, int64_t first, int64_t last) {
  alignas(64) float rest[3][32] = {};  // The last channels of a row, their scale and shift, and zeros.
  const float* scale = coefficients;
  const float* shift = coefficients == nullptr ? nullptr : coefficients + channels;
  for (int64_t row = first; row < last; ++row)
    for (int64_t c = 0; c < channels; c += 32) {
      const float *of[3] = {x + row * channels + c, scale + c, shift + c};
      if (channels - c < 32)
        for (int i = 0; i < (scale == nullptr ? 1 : 3); ++i) {
          memcpy(rest[i], of[i], (channels - c) * sizeof(float));
          of[i] = rest[i];
        }
      *words++ = scale == nullptr ? Lanes::signs(of[0]) : Lanes::signs(of[0], of[1], of[2]);
    }
}

}  // namespace
}  // namespace bnn
