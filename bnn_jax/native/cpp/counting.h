// A convolution of words that counts differing bits word by word, written once over `Lanes` (tiles.h), which has as well:
//
//   Lanes::kRows         pixels of a tile
//   Lanes::kWords        how many words a Counts can take before it must be gathered
//   Lanes::Counts        differing bits of kBlock filters at one pixel, all 0 to begin with
//   Lanes::add(c, w, x)  count the bits in which x differs from each of the kBlock words from w on
//   Lanes::gather(c)     add the counts to totals that can take any number
//   Lanes::integers(c, k, y)   gather, then y[f] = k - 2 totals[f] for kBlock filters
#pragma once

#include "narrow.h"
#include "floats.h"
#include "maps.h"
#include "tiles.h"

namespace bnn {
namespace {

// Differing bits of a block of filters at R pixels, x_pixel words apart, in the runs of one row.
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

// A block's counts of one pixel, k products each, written as integers or as signs.
inline void store(Lanes::Counts& counts, int64_t k, const Result& to, int64_t block, int64_t pixel, int64_t out) {
  if (to.thresholds == nullptr && kBlock <= out - block * kBlock)
    return Lanes::integers(counts, static_cast<int32_t>(k), to.integers + pixel * out + block * kBlock);
  alignas(64) int32_t y[kBlock];
  Lanes::integers(counts, static_cast<int32_t>(k), y);
  write(y, to, block, pixel, out);
}

template <int R>
inline void tile(const Geometry& g, const Taps& taps, const uint32_t* x, const uint32_t* w, const Result& to,
                 int64_t block, int64_t pixel, int64_t k) {
  Lanes::Counts counts[R] = {};
  for (int64_t row = 0; row < taps.rows; ++row) {
    if (row > 0)
      for (int r = 0; r < R; ++r) Lanes::gather(counts[r]);
    count<R>(taps, x + row * taps.x_row, g.stride_w * g.words, w + row * taps.w_row, counts);
  }
  for (int r = 0; r < R; ++r) store(counts[r], k, to, block, pixel + r, g.out);
}

void convolve(const Geometry& g, const uint32_t* x_words, const Weights& weights, const Result& to, int64_t block,
              int64_t first, int64_t last, uint32_t* room) {
  // The block's weights, contiguous: they are read once for every pixel.
  for (int64_t k = 0; k < g.size_h * g.size_w * g.words; ++k) {
    uint32_t* to_room = room + k * kBlock;
    const uint32_t* words = words_of_block(weights, block, g.out, k, to_room);
    if (words != to_room) memcpy(to_room, words, kBlock * sizeof(uint32_t));
  }
  const int64_t extent_w = g.dilation_w * (g.size_w - 1) + 1;
  const int64_t x_row = g.dilation_h * g.width * g.words, w_row = g.size_w * g.words * kBlock;
  for (int64_t line = first; line < last; ++line) {
    const int64_t image = line / g.rows, y0 = line % g.rows * g.stride_h - g.top;
    int64_t i0, i1;
    inside(y0, g.size_h, g.dilation_h, g.height, &i0, &i1);
    for (int64_t column = 0; column < g.columns;) {
      const int64_t x0 = column * g.stride_w - g.left;
      int64_t j0, j1;
      inside(x0, g.size_w, g.dilation_w, g.width, &j0, &j1);
      Taps taps = {i1 - i0, (j1 - j0) * g.words, x_row, w_row, 1, 0, 0};
      if (g.dilation_w > 1)
        taps = {j1 - j0, g.words, g.dilation_w * g.words, g.words * kBlock, i1 - i0, x_row, w_row};
      const int64_t k = (i1 - i0) * (j1 - j0) * g.channels;
      const uint32_t* x = x_words + ((image * g.height + y0 + i0 * g.dilation_h) * g.width + x0 + j0 * g.dilation_w) * g.words;
      const uint32_t* w = room + (i0 * g.size_w + j0) * g.words * kBlock;
      const int64_t pixel = line * g.columns + column;
      const int64_t beyond = x0 + (Lanes::kRows - 1) * g.stride_w + extent_w;
      const bool whole = x0 >= 0 && beyond <= g.width && column + Lanes::kRows <= g.columns;
      if (whole)
        tile<Lanes::kRows>(g, taps, x, w, to, block, pixel, k);
      else
        tile<1>(g, taps, x, w, to, block, pixel, k);
      column += whole ? Lanes::kRows : 1;
    }
  }
}

int64_t limit(int64_t times) {
  constexpr int64_t kDepth = 72;
  static uint32_t x[Lanes::kRows * kDepth], w[kDepth * kBlock];
  const Taps taps = {1, kDepth, 0, 0, 1, 0, 0};
  alignas(64) int32_t y[Lanes::kRows][kBlock] = {};
  for (int64_t i = 0; i < times; ++i) {
    Lanes::Counts counts[Lanes::kRows] = {};
    count<Lanes::kRows>(taps, x, kDepth, w, counts);
    for (int r = 0; r < Lanes::kRows; ++r) Lanes::integers(counts[r], 0, y[r]);
    asm volatile("" : : "r"(y), "r"(x), "r"(w) : "memory");  // Else the compiler sees that all rounds are one.
  }
  return times * Lanes::kRows * kDepth * 32 * kBlock;
}

int64_t room(const Geometry& g) { return g.size_h * g.size_w * g.words * kBlock; }

constexpr Kernels kKernels = {1, room, convolve, convolve_floats, dot, dot_floats, pack,
                              narrow_words, narrow_room, narrow_prepare, convolve_narrow, limit, kFloatKernels, kMapKernels};

}  // namespace
}  // namespace bnn
