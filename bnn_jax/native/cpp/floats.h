// Products of floats with floats: convolutions, their gradients, matrices. Written once over `Lanes`, which has for this:
//
//   Lanes::Vector               kVector floats
//   Lanes::load, store, all     from and to memory that need not be aligned; one number in every place
//   Lanes::fma(a, b, c)         a b + c, rounded once where the processor can
//   Lanes::kWide                vectors of filters at a time, at most
//   Lanes::kSums                vectors of sums that fit into the registers beside the operands
//
// All sums of `slide` are made in one order, window row by window row, column by column, channel by channel, whatever else is
// computed beside them: a pixel's result depends on nothing but its window. `multiply` adds up its terms in the same order. The
// sums of `correlate` are made over kPixels pixels or so at a time, and these sums added up in the order of the images. Rows of
// the window that lie outside the image are left out.
#pragma once

#include "tiles.h"

namespace bnn {
namespace {

using Vector = Lanes::Vector;
constexpr int64_t kVector = Lanes::kVector;
constexpr int kTall = 12;           // Pixels, or inputs of a kernel's gradient, of one tile at most.
constexpr int64_t kPixels = 128;    // Pixels that share what is done once for all sums of `correlate`.
constexpr int64_t kCopied = 1 << 14;  // Floats, 64 KiB, of an image with its padding: a small part of the second-level cache.

constexpr int tall(int wide) { return Lanes::kSums / wide < kTall ? Lanes::kSums / wide : kTall; }

// Vectors of filters, and how many blocks of at most kWide, as even as can be, they make.
inline int64_t vectors(int64_t out) { return ceil_div(out, kVector); }
inline int64_t float_blocks(int64_t out) { return ceil_div(vectors(out), Lanes::kWide); }
inline int64_t block_start(int64_t out, int64_t block) { return vectors(out) * block / float_blocks(out); }

// Calls f with std::integral_constant-like objects of P in [1, tall(Q)] and Q in [1, kWide].
template <int N>
struct Constant {
  static constexpr int value = N;
};
template <int Q, int P, typename F>
inline void with_height(int64_t height, const F& f) {
  if constexpr (P == 1) {
    f(Constant<1>(), Constant<Q>());
  } else {
    if (height == P) return f(Constant<P>(), Constant<Q>());
    with_height<Q, P - 1>(height, f);
  }
}
template <int Q, typename F>
inline void with_shape(int64_t height, int64_t width, const F& f) {
  if constexpr (Q == 1) {
    with_height<1, tall(1)>(height, f);
  } else {
    if (width == Q) return with_height<Q, tall(Q)>(height, f);
    with_shape<Q - 1>(height, width, f);
  }
}

// Rows of an image with its padding. Pixel (0, 0) is the first one that a window sees; a row is `row` floats.
struct Rows {
  const float* at;
  int64_t row;
};

inline int64_t padded_columns(const Sliding& s) { return (s.columns - 1) * s.stride_w + s.size_w; }
inline int64_t padded_rows(const Sliding& s, int64_t rows) { return (rows - 1) * s.stride_h + s.size_h; }
inline bool copied(const Sliding& s) {
  return s.top > 0 || s.left > 0 || padded_rows(s, s.rows) - s.top > s.height || padded_columns(s) - s.left > s.width;
}

// What the windows of result rows [first, first + rows) of an image see: where it lies or, with padding, copied to `room`.
Rows seen(const Sliding& s, const float* x, int64_t image, int64_t first, int64_t rows, float* room) {
  const int64_t start = first * s.stride_h - s.top, columns = padded_columns(s), row = columns * s.channels;
  x += image * s.height * s.width * s.channels;
  if (!copied(s)) return {x + (start * s.width - s.left) * s.channels, s.width * s.channels};
  const int64_t before = least(most(s.left, 0), columns), from = most(-s.left, 0);
  const int64_t some = most(0, least(s.width - from, columns - before)), after = columns - before - some;
  float* to = room;
  for (int64_t r = start; r < start + padded_rows(s, rows); ++r, to += row) {
    if (r < 0 || r >= s.height || some == 0) {
      memset(to, 0, row * sizeof(float));
      continue;
    }
    memset(to, 0, before * s.channels * sizeof(float));
    memcpy(to + before * s.channels, x + (r * s.width + from) * s.channels, some * s.channels * sizeof(float));
    memset(to + (before + some) * s.channels, 0, after * s.channels * sizeof(float));
  }
  return {room, row};
}

// Result rows at a time, so that the copy is not large.
inline int64_t rows_at_once(const Sliding& s) {
  const int64_t row = most(1, padded_columns(s) * s.channels);
  return most(1, least(s.rows, (kCopied / row - s.size_h) / s.stride_h + 1));
}

int64_t slide_room(const Sliding& s) {
  return copied(s) ? most(0, padded_rows(s, rows_at_once(s)) * padded_columns(s) * s.channels) : 0;
}

int64_t packed_floats(const Sliding& s) { return s.size_h * s.size_w * s.channels * vectors(s.out) * kVector; }

// The weights in the order in which `slide` reads them: block by block, of each all taps and channels, of each its filters.
void pack_floats(const Sliding& s, const Strided& w, float* packed) {
  for (int64_t block = 0; block < float_blocks(s.out); ++block) {
    const int64_t first = block_start(s.out, block) * kVector, last = block_start(s.out, block + 1) * kVector;
    for (int64_t i = 0; i < s.size_h; ++i)
      for (int64_t j = 0; j < s.size_w; ++j)
        for (int64_t c = 0; c < s.channels; ++c, packed += last - first) {
          const float* from = w.at + i * w.row + j * w.column + c * w.channel;
          for (int64_t f = first; f < last; ++f) packed[f - first] = f < s.out ? from[f * w.filter] : 0;
        }
  }
}

bool signs_alone(const float* x, int64_t n) {
  for (int64_t start = 0; start < n; start += 1024) {
    uint32_t other = 0;
    for (int64_t i = start; i < least(start + 1024, n); ++i) {
      uint32_t number;
      memcpy(&number, x + i, sizeof(number));
      other |= (number & 0x7fffffffu) ^ 0x3f800000u;
    }
    if (other != 0) return false;
  }
  return true;
}

void to_floats(int32_t* integers, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const float number = static_cast<float>(integers[i]);
    memcpy(integers + i, &number, sizeof(number));
  }
}

// P pixels of Q vectors of filters, from the rows [begin, end) of the window: the others lie outside the image.
template <int P, int Q>
void pixels(const Sliding& s, int64_t begin, int64_t end, const float* x, int64_t row, const float* w, float* y, int64_t filters) {
  const int64_t step = s.stride_w * s.channels, run = s.size_w * s.channels;
  Vector sums[P][Q] = {};
  x += begin * row, w += begin * run * Q * kVector;
  for (int64_t i = begin; i < end; ++i, x += row)
    for (int64_t k = 0; k < run; ++k, w += Q * kVector) {
      Vector weights[Q];
      for (int q = 0; q < Q; ++q) weights[q] = Lanes::load(w + q * kVector);
      for (int p = 0; p < P; ++p) {
        const Vector all = Lanes::all(x[p * step + k]);
        for (int q = 0; q < Q; ++q) sums[p][q] = Lanes::fma(all, weights[q], sums[p][q]);
      }
    }
  for (int p = 0; p < P; ++p, y += s.y_column) {
    if (filters >= Q * kVector) {
      for (int q = 0; q < Q; ++q) Lanes::store(y + q * kVector, sums[p][q]);
      continue;
    }
    float some[Q * kVector];
    for (int q = 0; q < Q; ++q) Lanes::store(some + q * kVector, sums[p][q]);
    memcpy(y, some, filters * sizeof(float));
  }
}

void slide(const Sliding& s, const float* x, const float* packed, float* y, int64_t first, int64_t last, float* room) {
  for (int64_t line = first, some; line < last; line += some) {
    const int64_t image = line / s.rows, from = line % s.rows;
    some = least(least(rows_at_once(s), s.rows - from), last - line);
    const Rows in = seen(s, x, image, from, some, room);
    for (int64_t block = 0; block < float_blocks(s.out); ++block) {
      const int64_t start = block_start(s.out, block), wide = block_start(s.out, block + 1) - start;
      const float* w = packed + s.size_h * s.size_w * s.channels * start * kVector;
      const int64_t tiles = ceil_div(s.columns, tall(static_cast<int>(wide)));
      for (int64_t a = 0; a < some; ++a) {
        int64_t begin, end;
        inside((from + a) * s.stride_h - s.top, s.size_h, 1, s.height, &begin, &end);
        for (int64_t tile = 0; tile < tiles; ++tile) {
          const int64_t b = s.columns * tile / tiles, height = s.columns * (tile + 1) / tiles - b;
          const float* at = in.at + a * s.stride_h * in.row + b * s.stride_w * s.channels;
          float* to = y + image * s.y_image + (from + a) * s.y_row + b * s.y_column + start * kVector;
          with_shape<Lanes::kWide>(height, wide, [&](auto p, auto q) {
            pixels<decltype(p)::value, decltype(q)::value>(s, begin, end, at, in.row, w, to, s.out - start * kVector);
          });
        }
      }
    }
  }
}

// Terms of a sum at a time. Their weights of one tile stay in the first-level cache for all rows. Few rows read the weights
// from memory at its full rate if they read them nearly in sequence.
constexpr int64_t kTerms = 128, kTermsOfFew = 16, kFewRows = 8;

int64_t multiply_room() { return kTerms * Lanes::kWide * kVector; }

// Adds some terms to the sums of P rows with Q vectors of filters; `first`: the sums start from 0.
template <int P, int Q>
void add_terms(const float* x, int64_t x_row, const float* w, int64_t w_row, int64_t terms, bool first, float* y, int64_t y_row,
               int64_t filters) {
  const bool whole = filters >= Q * kVector;
  Vector sums[P][Q] = {};
  float some[P][Q * kVector];
  for (int p = 0; p < P && !first; ++p) {
    const float* from = y + p * y_row;
    if (!whole) {
      memset(some[p], 0, sizeof(some[p]));
      from = static_cast<const float*>(memcpy(some[p], from, filters * sizeof(float)));
    }
    for (int q = 0; q < Q; ++q) sums[p][q] = Lanes::load(from + q * kVector);
  }
  for (int64_t k = 0; k < terms; ++k, w += w_row) {
    Vector weights[Q];
    for (int q = 0; q < Q; ++q) weights[q] = Lanes::load(w + q * kVector);
    for (int p = 0; p < P; ++p) {
      const Vector all = Lanes::all(x[p * x_row + k]);
      for (int q = 0; q < Q; ++q) sums[p][q] = Lanes::fma(all, weights[q], sums[p][q]);
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int q = 0; q < Q; ++q) Lanes::store((whole ? y + p * y_row : some[p]) + q * kVector, sums[p][q]);
    if (!whole) memcpy(y + p * y_row, some[p], filters * sizeof(float));
  }
}

void multiply(const float* x, int64_t rows, int64_t terms, const float* w, int64_t out, float* y, int64_t first, int64_t last,
              float* room) {
  const int64_t at_once = rows <= kFewRows ? kTermsOfFew : kTerms;
  for (int64_t from = 0; from < terms; from += at_once) {
    const int64_t some = least(at_once, terms - from);
    for (int64_t block = first; block < last; ++block) {
      const int64_t start = block_start(out, block) * kVector, wide = block_start(out, block + 1) - start / kVector;
      const int64_t filters = out - start, tiles = ceil_div(rows, tall(static_cast<int>(wide)));
      const float* weights = w + from * out + start;
      int64_t w_row = out;
      if (filters < wide * kVector) {
        // The last vector would read beyond the weights.
        w_row = wide * kVector;
        memset(room, 0, some * w_row * sizeof(float));
        for (int64_t k = 0; k < some; ++k) memcpy(room + k * w_row, weights + k * out, filters * sizeof(float));
        weights = room;
      }
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t row = rows * tile / tiles, height = rows * (tile + 1) / tiles - row;
        with_shape<Lanes::kWide>(height, wide, [&](auto p, auto q) {
          add_terms<decltype(p)::value, decltype(q)::value>(x + row * terms + from, terms, weights, w_row, some, from == 0,
                                                            y + row * out + start, out, filters);
        });
      }
    }
  }
}

// The kernel's gradient. Its inputs, the columns and channels of one row of the window, lie side by side in x.
inline int64_t inputs(const Sliding& s) { return s.size_w * s.channels; }
inline int64_t tiles_of_inputs(const Sliding& s) {
  return ceil_div(inputs(s), tall(static_cast<int>(least(vectors(s.out), Lanes::kWide))));
}

int64_t correlate_parts(const Sliding& s) { return s.size_h * tiles_of_inputs(s); }
int64_t correlate_floats(const Sliding& s) { return s.size_h * inputs(s) * vectors(s.out) * kVector; }

inline int64_t rows_of_pixels(const Sliding& s) {
  return most(1, least(ceil_div(kPixels, s.columns), rows_at_once(s)));
}
// Whole images at a time, where one has few pixels.
inline int64_t images_of_pixels(const Sliding& s) {
  if (rows_of_pixels(s) < s.rows) return 1;
  const int64_t copy = padded_rows(s, s.rows) * padded_columns(s) * s.channels;
  return most(1, least(kPixels / (s.rows * s.columns), kCopied / most(1, copy)));
}
inline int64_t x_room(const Sliding& s) {
  if (!copied(s)) return 0;
  const int64_t rows = padded_rows(s, rows_of_pixels(s));
  return ceil_div(images_of_pixels(s) * rows * padded_columns(s) * s.channels, 16) * 16;
}

int64_t correlate_room(const Sliding& s) {
  const int64_t g = images_of_pixels(s) * rows_of_pixels(s) * s.columns * vectors(s.out) * kVector;
  return x_room(s) + (s.out % kVector == 0 ? 0 : g);
}

// The pixels of a strip: rows of images, and the distances between them in x and in g, in floats.
struct Strip {
  int64_t images, rows, columns;
  const float *x, *g;
  int64_t x_image, x_row, x_column, g_image, g_row, g_column;
};

// The rows of a strip for which row i of the window lies inside the image. The strip begins at result row `from`.
inline Strip inside_at(const Sliding& s, int64_t i, int64_t from, Strip strip) {
  int64_t begin, end;
  inside(from * s.stride_h - s.top + i, strip.rows, s.stride_h, s.height, &begin, &end);
  strip.x += begin * strip.x_row, strip.g += begin * strip.g_row, strip.rows = end - begin;
  return strip;
}

// P inputs with Q vectors of filters, their products summed over a strip, added to `totals`, whose rows are g_column apart.
template <int P, int Q>
void products(const Strip& strip, int64_t input, int64_t filter, float* totals, int64_t wide) {
  Vector sums[P][Q] = {};
  for (int64_t n = 0; n < strip.images; ++n)
    for (int64_t a = 0; a < strip.rows; ++a) {
      const float* x = strip.x + n * strip.x_image + a * strip.x_row + input;
      const float* g = strip.g + n * strip.g_image + a * strip.g_row + filter;
      for (int64_t b = 0; b < strip.columns; ++b, x += strip.x_column, g += strip.g_column) {
        Vector gradients[Q];
        for (int q = 0; q < Q; ++q) gradients[q] = Lanes::load(g + q * kVector);
        for (int p = 0; p < P; ++p) {
          const Vector all = Lanes::all(x[p]);
          for (int q = 0; q < Q; ++q) sums[p][q] = Lanes::fma(all, gradients[q], sums[p][q]);
        }
      }
    }
  for (int p = 0; p < P; ++p, totals += wide)
    for (int q = 0; q < Q; ++q) {
      float* total = totals + q * kVector;
      Lanes::store(total, Lanes::load(total) + sums[p][q]);
    }
}

void correlate(const Sliding& s, const float* x, const float* g, float* totals, int64_t first_image, int64_t last_image,
               int64_t first_part, int64_t last_part, float* room) {
  const int64_t wide = vectors(s.out) * kVector, tiles = tiles_of_inputs(s);
  const int64_t rows = rows_of_pixels(s), images = rows < s.rows ? 1 : images_of_pixels(s);
  if (s.rows == 0 || s.columns == 0) return;
  for (int64_t image = first_image; image < last_image; image += images)
    for (int64_t from = 0; from < s.rows; from += rows) {
      const int64_t n = least(images, last_image - image), some = least(rows, s.rows - from);
      const int64_t copy = padded_rows(s, some) * padded_columns(s) * s.channels;
      Rows in = seen(s, x, image, from, some, room);
      for (int64_t k = 1; copied(s) && k < n; ++k) seen(s, x, image + k, from, some, room + k * copy);
      Strip strip = {n, some, s.columns, in.at, g + (image * s.rows + from) * s.columns * s.out,
                     copied(s) ? copy : s.height * s.width * s.channels, s.stride_h * in.row, s.stride_w * s.channels,
                     s.rows * s.columns * s.out, s.columns * s.out, s.out};
      if (wide != s.out) {
        float* to = room + x_room(s);
        const float* at = strip.g;  // The strip's pixels lie side by side: it has all rows of an image, or one image's.
        for (int64_t pixel = 0; pixel < n * some * s.columns; ++pixel, to += wide, at += s.out) {
          memcpy(to, at, s.out * sizeof(float));
          memset(to + s.out, 0, (wide - s.out) * sizeof(float));
        }
        strip.g = room + x_room(s), strip.g_column = wide, strip.g_row = s.columns * wide, strip.g_image = s.rows * s.columns * wide;
      }
      for (int64_t block = 0; block < float_blocks(s.out); ++block) {
        const int64_t start = block_start(s.out, block), across = block_start(s.out, block + 1) - start;
        for (int64_t part = first_part; part < last_part; ++part) {
          const int64_t i = part / tiles, tile = part % tiles;
          const int64_t input = inputs(s) * tile / tiles, height = inputs(s) * (tile + 1) / tiles - input;
          float* to = totals + (i * inputs(s) + input) * wide + start * kVector;
          const int64_t at = i * in.row + input;
          const Strip some_rows = inside_at(s, i, from, strip);
          with_shape<Lanes::kWide>(height, across, [&](auto p, auto q) {
            products<decltype(p)::value, decltype(q)::value>(some_rows, at, start * kVector, to, wide);
          });
        }
      }
    }
}

constexpr FloatKernels kFloatKernels = {signs_alone,   to_floats, slide_room,      packed_floats,    pack_floats,    slide,    float_blocks,
                                        multiply_room, multiply,  correlate_parts, correlate_floats, correlate_room, correlate};

}  // namespace
}  // namespace bnn
