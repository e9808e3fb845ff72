// A convolution in narrow groups, whose channels do not fill a word (depthwise: one channel each). Words lie along the
// filters: bit f of a word is filter f's, in x, in the weights and in the result, so one operation serves 32 filters and a
// vector of words serves many pixels. Differing bits are counted in bit planes: plane p of a count holds its bit p, for every
// filter, and adding is a full adder. A result that is only compared with thresholds is compared in planes too.
#pragma once

#include "tiles.h"

namespace bnn {
namespace {

typedef uint32_t WordVector __attribute__((vector_size(4 * Lanes::kVector)));

template <typename V>
inline V load(const uint32_t* from) {
  V v;
  memcpy(&v, from, sizeof(v));
  return v;
}

// Where a tap's words lie, in x and in the weights.
struct Place {
  int64_t x, w;
};

// How many planes hold a count of `most` and the threshold above it; one of those that `convolve_narrow` is compiled for.
inline int64_t planes_for(int64_t most) {
  return most < 15 ? 4 : most < 63 ? 6 : most < 511 ? 9 : 24;
}

inline int64_t taps_of(const Geometry& g) { return g.size_h * g.size_w; }
// A row of the weights or of the thresholds repeats its g.words words, so that a vector may start at any of them.
inline int64_t period(const Geometry& g) { return g.words + Lanes::kVector; }
inline int64_t limits_at(const Geometry& g) { return taps_of(g) * g.channels * period(g); }
inline int64_t flip_at(const Geometry& g) {
  return limits_at(g) + (taps_of(g) + 1) * planes_for(taps_of(g) * g.channels) * period(g);
}
int64_t narrow_words(const Geometry& g) { return flip_at(g) + period(g); }

inline void repeat(const uint32_t* words, int64_t n, uint32_t* row) {
  for (int64_t i = 0; i < n + Lanes::kVector; ++i) row[i] = words[i % n];
}

// For a pixel with k products: in bit f of plane p, bit p of how many bits must differ at least for filter f's integer
// k - 2 differing to lie below its threshold; k + 1 where none lies below.
void limit_planes(const Geometry& g, const int32_t* thresholds, int64_t k, uint32_t* rows) {
  const int64_t planes = planes_for(taps_of(g) * g.channels);
  alignas(64) static const int32_t kZeros[kBlock] = {};
  for (int64_t block = 0; block < g.words; ++block) {
    alignas(64) int32_t least_differing[kBlock], bit[kBlock];
    for (int64_t f = 0; f < kBlock; ++f) {
      const int64_t filter = block * kBlock + f;
      // Filters that are not there: none differs, so 1 is never reached, and their bits stay 0.
      int64_t needed = 1;
      if (filter < g.out) {
        const int64_t beyond = k - int64_t{thresholds[filter]};  // 2 differing must be larger.
        needed = beyond < 0 ? 0 : least(beyond / 2 + 1, k + 1);
      }
      least_differing[f] = static_cast<int32_t>(needed);
    }
    for (int64_t plane = 0; plane < planes; ++plane) {
      for (int64_t f = 0; f < kBlock; ++f) bit[f] = -(least_differing[f] >> plane & 1);
      rows[plane * period(g) + block] = Lanes::below(bit, kZeros);
    }
  }
  for (int64_t plane = 0; plane < planes; ++plane)
    for (int64_t i = g.words; i < period(g); ++i) rows[plane * period(g) + i] = rows[plane * period(g) + i % g.words];
}

void narrow_prepare(const Geometry& g, const uint32_t* w, const Result& to, uint32_t* prepared) {
  const int64_t rows = taps_of(g) * g.channels;
  for (int64_t row = 0; row < rows; ++row) repeat(w + row * g.words, g.words, prepared + row * period(g));
  if (to.thresholds == nullptr) return;
  repeat(to.flip, g.words, prepared + flip_at(g));
  // Only for the numbers of taps inside the image that occur: few, of rows times columns.
  uint32_t* limits = prepared + limits_at(g);
  const int64_t step = planes_for(rows) * period(g);
  const auto occurs = [](int64_t outputs, int64_t stride, int64_t pad, int64_t size, int64_t dilation, int64_t extent,
                         int64_t wanted) {
    for (int64_t i = 0; i < outputs; ++i) {
      int64_t begin, end;
      inside(i * stride - pad, size, dilation, extent, &begin, &end);
      if (end - begin == wanted) return true;
    }
    return false;
  };
  for (int64_t i = 0; i <= g.size_h; ++i) {
    if (!occurs(g.rows, g.stride_h, g.top, g.size_h, g.dilation_h, g.height, i)) continue;
    for (int64_t j = 0; j <= g.size_w; ++j)
      if (occurs(g.columns, g.stride_w, g.left, g.size_w, g.dilation_w, g.width, j))
        limit_planes(g, to.thresholds, i * j * g.channels, limits + i * j * step);
  }
}

// The columns [*begin, *end) whose windows lie inside the image from left to right.
inline void whole_columns(const Geometry& g, int64_t* begin, int64_t* end) {
  const int64_t last = g.width - 1 - g.dilation_w * (g.size_w - 1) + g.left;
  *begin = least(ceil_div(g.left, g.stride_w), g.columns);
  *end = most(*begin, last < 0 ? 0 : least(last / g.stride_w + 1, g.columns));
}

// Where strides would leave gaps between few words, the pixels of a line are sorted by column modulo stride: one phase after
// the other. So many words has a phase.
inline bool sorted(const Geometry& g) { return g.stride_w > 1 && g.words < Lanes::kVector; }
inline int64_t phase(const Geometry& g) { return (g.columns + g.dilation_w * (g.size_w - 1) / g.stride_w + 1) * g.words; }

int64_t narrow_room(const Geometry& g) {
  const int64_t places = taps_of(g) * g.channels * static_cast<int64_t>(sizeof(Place) / sizeof(uint32_t));
  return places + (sorted(g) ? g.size_h * g.channels * g.stride_w * phase(g) : 0);
}

// Differing bits at `count` places, V::size words of them from x and w on, as planes.
template <typename V, int P>
inline void count_planes(const Place* places, int64_t count, const uint32_t* x, const uint32_t* w, V (&planes)[P]) {
  for (int p = 0; p < P; ++p) planes[p] = V{};
  const auto carry_on = [&](V carry) {
#pragma GCC unroll 32
    for (int p = 1; p < P; ++p) {
      const V next = planes[p] & carry;
      planes[p] ^= carry;
      carry = next;
    }
  };
  int64_t i = 0;
  for (; i + 2 <= count; i += 2) {
    const V a = load<V>(x + places[i].x) ^ load<V>(w + places[i].w);
    const V b = load<V>(x + places[i + 1].x) ^ load<V>(w + places[i + 1].w);
    const V either = a ^ b;
    const V carry = (a & b) | (planes[0] & either);
    planes[0] ^= either;
    carry_on(carry);
  }
  if (i < count) {
    const V a = load<V>(x + places[i].x) ^ load<V>(w + places[i].w);
    const V carry = planes[0] & a;
    planes[0] ^= a;
    carry_on(carry);
  }
}

// One line's work: the same places for a run of pixels.
template <int P>
struct Run {
  const Geometry& g;
  const uint32_t* prepared;
  const Result& to;
  const Place* places;
  int64_t count, taps;

  // The vector or word of a run that starts `at` words after word 0 of `pixel`; `word` = at modulo the words of a pixel.
  template <typename V>
  inline void one(const uint32_t* x, int64_t pixel, int64_t at, int64_t word) const {
    V planes[P];
    count_planes<V, P>(places, count, x + at, prepared + word, planes);
    if (to.thresholds != nullptr) {
      const uint32_t* limits = prepared + limits_at(g) + taps * planes_for(taps_of(g) * g.channels) * period(g) + word;
      V borrow = V{};
#pragma GCC unroll 32
      for (int p = 0; p < P; ++p) {
        const V limit = load<V>(limits + p * period(g));
        borrow = (~planes[p] & limit) | (~(planes[p] ^ limit) & borrow);
      }
      const V signs = ~borrow ^ load<V>(prepared + flip_at(g) + word);
      memcpy(to.signs + pixel * g.words + at, &signs, sizeof(signs));
      return;
    }
    constexpr int64_t kWords = sizeof(V) / sizeof(uint32_t);
    const int32_t k = static_cast<int32_t>(taps * g.channels);
    uint32_t words[P][kWords];
    memcpy(words, planes, sizeof(words));
    for (int64_t i = 0; i < kWords; ++i) {
      const int64_t pixel_of = pixel + (at + i) / g.words, block = (at + i) % g.words;
      const int64_t filters = least(kBlock, g.out - block * kBlock);
      alignas(64) int32_t some[kBlock];
      int32_t* y = to.integers + pixel_of * g.out + block * kBlock;
      int32_t* all = filters == kBlock ? y : some;
      uint32_t differing[kBlock] = {};
#pragma GCC unroll 32
      for (int p = 0; p < P; ++p)
        for (int f = 0; f < kBlock; ++f) differing[f] += (words[p][i] >> f & 1) << p;
      for (int f = 0; f < kBlock; ++f) all[f] = k - 2 * static_cast<int32_t>(differing[f]);
      if (filters < kBlock) memcpy(y, some, filters * sizeof(int32_t));
    }
  }

  // `words` words from word 0 of `pixel` on, whose first tap lies at x. The last vector overlaps the one before it.
  void operator()(const uint32_t* x, int64_t pixel, int64_t words) const {
    if (words < Lanes::kVector) {
      for (int64_t at = 0; at < words; ++at) one<uint32_t>(x, pixel, at, at % g.words);
      return;
    }
    const int64_t step = Lanes::kVector % g.words;
    int64_t at = 0;
    for (int64_t word = 0; at + Lanes::kVector <= words; at += Lanes::kVector) {
      one<WordVector>(x, pixel, at, word);
      word += step;
      if (word >= g.words) word -= g.words;
    }
    if (at < words) one<WordVector>(x, pixel, words - Lanes::kVector, (words - Lanes::kVector) % g.words);
  }
};

template <int P>
void narrow_lines(const Geometry& g, const uint32_t* x, const uint32_t* prepared, const Result& to, int64_t first,
                  int64_t last, uint32_t* room) {
  Place* places = reinterpret_cast<Place*>(room);
  uint32_t* staged = room + taps_of(g) * g.channels * sizeof(Place) / sizeof(uint32_t);
  const int64_t line_words = g.width * g.words, plane = g.images * g.height * line_words;
  int64_t begin, end;
  whole_columns(g, &begin, &end);
  for (int64_t line = first; line < last; ++line) {
    const int64_t y0 = line % g.rows * g.stride_h - g.top, pixel = line * g.columns;
    const uint32_t* image = x + line / g.rows * g.height * line_words;
    int64_t i0, i1;
    inside(y0, g.size_h, g.dilation_h, g.height, &i0, &i1);
    // The taps in the window's columns [j0, j1), as places counted from that of the window's first column.
    const auto run_of = [&](int64_t j0, int64_t j1, bool staged_rows) {
      int64_t n = 0;
      for (int64_t i = i0; i < i1; ++i)
        for (int64_t j = j0; j < j1; ++j)
          for (int64_t e = 0; e < g.channels; ++e) {
            const int64_t row = (y0 + i * g.dilation_h) * line_words + e * plane + j * g.dilation_w * g.words;
            const int64_t sorted_row = ((i * g.channels + e) * g.stride_w + j * g.dilation_w % g.stride_w) * phase(g) +
                                       j * g.dilation_w / g.stride_w * g.words;
            places[n++] = {staged_rows ? sorted_row : row, ((i * g.size_w + j) * g.channels + e) * period(g)};
          }
      return Run<P>{g, prepared, to, places, n, (i1 - i0) * (j1 - j0)};
    };
    const auto single = [&](int64_t column) {
      const int64_t x0 = column * g.stride_w - g.left;
      int64_t j0, j1;
      inside(x0, g.size_w, g.dilation_w, g.width, &j0, &j1);
      run_of(j0, j1, false)(image + x0 * g.words, pixel + column, g.words);
    };
    for (int64_t column = 0; column < begin; ++column) single(column);
    for (int64_t column = end; column < g.columns; ++column) single(column);
    if (begin == end) continue;
    const int64_t x0 = begin * g.stride_w - g.left;
    if (sorted(g)) {
      const int64_t seen = (end - begin - 1) * g.stride_w + g.dilation_w * (g.size_w - 1) + 1;
      for (int64_t i = i0; i < i1; ++i)
        for (int64_t e = 0; e < g.channels; ++e) {
          const uint32_t* from = image + (y0 + i * g.dilation_h) * line_words + e * plane + x0 * g.words;
          uint32_t* row = staged + (i * g.channels + e) * g.stride_w * phase(g);
          for (int64_t part = 0; part < g.stride_w; ++part, row += phase(g)) {
            uint32_t* at = row;
            for (int64_t column = part; column < seen; column += g.stride_w)
              for (int64_t word = 0; word < g.words; ++word) *at++ = from[column * g.words + word];
          }
        }
      run_of(0, g.size_w, true)(staged, pixel + begin, (end - begin) * g.words);
      continue;
    }
    const Run<P> run = run_of(0, g.size_w, false);
    if (g.stride_w == 1) {
      run(image + x0 * g.words, pixel + begin, (end - begin) * g.words);
      continue;
    }
    for (int64_t column = begin; column < end; ++column)
      run(image + (column * g.stride_w - g.left) * g.words, pixel + column, g.words);
  }
}

void convolve_narrow(const Geometry& g, const uint32_t* x, const uint32_t* prepared, const Result& to, int64_t first,
                     int64_t last, uint32_t* room) {
  const int64_t planes = planes_for(taps_of(g) * g.channels);
  const auto lines = planes == 4   ? narrow_lines<4>
                     : planes == 6 ? narrow_lines<6>
                     : planes == 9 ? narrow_lines<9>
                                   : narrow_lines<24>;
  lines(g, x, prepared, to, first, last, room);
}

}  // namespace
}  // namespace bnn
