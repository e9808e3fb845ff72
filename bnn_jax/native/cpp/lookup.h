// A convolution of words that looks bits up instead of counting them, for AVX2 (avx2.cc), which has no instruction that counts.
// A half byte of x chooses a table of 16 bytes: in how many bits it differs from each possible half byte of weights. One byte
// shuffle looks up those of 32 filters, and the counts are added up byte by byte.
#pragma once

#include "narrow.h"
#include "floats.h"
#include "maps.h"
#include "tiles.h"

namespace bnn {
namespace {

constexpr int kTogether = 2;      // Blocks of a tile, so that a table serves two shuffles.
constexpr int kRows = 6;          // Pixels of a tile: more and their counts would not stay in registers.
constexpr int64_t kHalves = 8;    // Half bytes of a word.
constexpr int64_t kByte = 56;     // Half bytes, 7 words, whose counts a byte holds.
constexpr int64_t kTotals = 255;  // Such bytes that a total of 16 bits holds.
static_assert(4 * kByte <= UINT8_MAX && 4 * kByte * kTotals <= UINT16_MAX, "a half byte has four bits to differ in");
constexpr int64_t kLine = 8192;   // Half bytes of a line that are laid out at a time, or those of six columns if more.
constexpr int64_t kAhead = 40;    // So many words of weights ahead, the next are fetched.

// of[16 a + b]: in how many bits half bytes a and b differ. Row 16 is 0, for what lies outside the image.
struct Tables {
  alignas(64) uint8_t of[17 * 16];
};
constexpr Tables make_tables() {
  Tables tables = {};
  for (int i = 0; i < 256; ++i)
    for (int bits = i >> 4 ^ (i & 15); bits > 0; bits /= 2) tables.of[i] = static_cast<uint8_t>(tables.of[i] + bits % 2);
  return tables;
}
constexpr Tables kTables = make_tables();
constexpr int kOutside = 32;  // Row 16, doubled as in `spread`.

// The half bytes of n words of x, lowest first, doubled: a row of the tables has 16 bytes, and an address scales by 8 at most.
inline void spread(const uint32_t* x, int64_t n, uint8_t* to) {
  int64_t k = 0;
  for (; k + 4 <= n; k += 4, to += 32) {
    const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + k)), mask = _mm_set1_epi8(30);
    const __m128i lower = _mm_and_si128(_mm_add_epi8(all, all), mask), upper = _mm_and_si128(_mm_srli_epi16(all, 3), mask);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_unpacklo_epi8(lower, upper));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to) + 1, _mm_unpackhi_epi8(lower, upper));
  }
  for (; k < n; ++k, to += 8)
    for (int i = 0; i < 8; ++i) to[i] = static_cast<uint8_t>(x[k] >> (4 * i) << 1 & 30);
}

// The half bytes of a block's word, lowest first: half byte i of filter f goes to to[i * step + f].
inline void lay(const uint32_t* words, uint8_t* to, int64_t step) {
  const __m256i bytes = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,  //
                                         0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), mask = _mm256_set1_epi8(15);
  __m256i of[4];  // Of 8 filters each; lanes of 4 filters: their lowest bytes, their second ones, ...
  for (int i = 0; i < 4; ++i) of[i] = _mm256_shuffle_epi8(Lanes::load(words + 8 * i), bytes);
  const __m256i lower[2] = {_mm256_unpacklo_epi32(of[0], of[1]), _mm256_unpacklo_epi32(of[2], of[3])};
  const __m256i upper[2] = {_mm256_unpackhi_epi32(of[0], of[1]), _mm256_unpackhi_epi32(of[2], of[3])};
  const __m256i all[4] = {_mm256_unpacklo_epi64(lower[0], lower[1]), _mm256_unpackhi_epi64(lower[0], lower[1]),
                          _mm256_unpacklo_epi64(upper[0], upper[1]), _mm256_unpackhi_epi64(upper[0], upper[1])};
  for (int i = 0; i < 4; ++i) {
    const __m256i byte = _mm256_permutevar8x32_epi32(all[i], order);
    __m256i* at = reinterpret_cast<__m256i*>(to + 2 * i * step);
    __m256i* next = reinterpret_cast<__m256i*>(to + (2 * i + 1) * step);
    _mm256_store_si256(at, _mm256_and_si256(byte, mask));
    _mm256_store_si256(next, _mm256_and_si256(_mm256_srli_epi16(byte, 4), mask));
  }
}

// y = (y, or k where it is yet to begin) - 2 totals of a block, whose filters 0 and 16 on are in totals[0], 8 and 24 on in [1].
inline void subtract(const __m256i* totals, bool begun, int32_t k, int32_t* y) {
  for (int part = 0; part < 4; ++part) {
    const __m128i eight = part < 2 ? _mm256_castsi256_si128(totals[part]) : _mm256_extracti128_si256(totals[part - 2], 1);
    __m256i* to = reinterpret_cast<__m256i*>(y) + part;
    const __m256i twice = _mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 1);
    _mm256_storeu_si256(to, _mm256_sub_epi32(begun ? _mm256_loadu_si256(to) : _mm256_set1_epi32(k), twice));
  }
}

// Adds to totals in how many bits of n <= kByte half bytes V blocks of filters differ from R pixels, x_pixel half bytes
// apart. (A function by itself: what surrounds it would take its registers.)
template <int R, int V>
__attribute__((noinline)) void look_up(const uint8_t* x, int64_t x_pixel, const uint8_t* w, int64_t n,
                                       __m256i* totals) {
  __m256i bytes[R][V] = {};
  for (int64_t i = 0; i < n; ++i, w += V * kBlock) {
    __m256i weights[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) weights[v] = Lanes::load(w + v * kBlock);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const uint8_t* row = kTables.of + 8 * static_cast<int64_t>(x[r * x_pixel + i]);
      const __m256i table = _mm256_broadcastsi128_si256(*reinterpret_cast<const __m128i*>(row));
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        const __m256i differ = _mm256_shuffle_epi8(table, weights[v]);
        asm("vpaddb %1, %0, %0" : "+x"(bytes[r][v]) : "x"(differ));  // In place: GCC copied sums to and fro.
      }
    }
  }
  const __m256i zero = _mm256_setzero_si256();
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      __m256i* of = totals + 2 * (r * V + v);
      of[0] = _mm256_add_epi16(of[0], _mm256_unpacklo_epi8(bytes[r][v], zero));
      of[1] = _mm256_add_epi16(of[1], _mm256_unpackhi_epi8(bytes[r][v], zero));
    }
}

// y[r * step + f] = k[r] - 2 (bits in which V blocks of filters differ from pixel r), for R pixels, x_pixel half bytes apart.
template <int R, int V>
void tile(const Taps& taps, const uint8_t* x, int64_t x_pixel, const uint8_t* w, const int32_t* k, int32_t* y, int64_t step) {
  constexpr int kWidth = V * kBlock;
  __m256i totals[2 * R * V];
  const auto clear = [&] {
#pragma GCC unroll 24
    for (__m256i& total : totals) total = _mm256_setzero_si256();
  };
  int64_t space = kTotals;
  bool begun = false;
  const auto finish = [&] {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) subtract(totals + 2 * (r * V + v), begun, k[r], y + r * step + v * kBlock);
  };
  clear();
  for (int64_t row = 0; row < taps.rows; ++row)
    for (int64_t s = 0; s < taps.segments; ++s)
      for (int64_t i = 0; i < taps.length; i += kByte) {
        if (space-- == 0) {
          finish();
          clear();
          begun = true, space = kTotals - 1;
        }
        const uint8_t* w_at = w + (row * taps.w_row + s * taps.w_step + i) * kWidth;
        look_up<R, V>(x + row * taps.x_row + s * taps.x_step + i, x_pixel, w_at, least(kByte, taps.length - i), totals);
      }
  finish();
}

// How many columns of a line are laid out at a time.
int64_t columns_of_strip(const Geometry& g) {
  const int64_t room = kLine / (kHalves * g.words) - g.dilation_w * (g.size_w - 1) - 1;
  return least(g.columns, most(kRows, room / g.stride_w + 1));
}

// Pixels of a line that so many columns see.
int64_t reach(const Geometry& g, int64_t columns) { return (columns - 1) * g.stride_w + g.dilation_w * (g.size_w - 1) + 1; }

int64_t room(const Geometry& g) {
  const int64_t weights = g.size_h * g.size_w * g.words * kHalves * kTogether * kBlock;
  return (weights + g.size_h * reach(g, columns_of_strip(g)) * g.words * kHalves) / 4;
}

// `seen` pixels from column x0 on, of the lines [i0, i1) of a window whose first is y0, as half bytes, x_row of them a line.
void spread_lines(const Geometry& g, const uint32_t* image, int64_t y0, int64_t i0, int64_t i1, int64_t x0, int64_t seen,
                  uint8_t* laid, int64_t x_row) {
  const int64_t pixel = g.words * kHalves;
  int64_t begin, end;  // Those that lie inside the image.
  inside(x0, seen, 1, g.width, &begin, &end);
  for (int64_t i = i0; i < i1; ++i) {
    uint8_t* line = laid + i * x_row;
    memset(line, kOutside, begin * pixel);
    spread(image + ((y0 + i * g.dilation_h) * g.width + x0 + begin) * g.words, (end - begin) * g.words, line + begin * pixel);
    memset(line + end * pixel, kOutside, (seen - end) * pixel);
  }
}

// Output lines [first, last) of V blocks, whose weights are laid out at w.
template <int V>
void lines(const Geometry& g, const uint32_t* x_words, const Result& to, int64_t block, int64_t first, int64_t last,
           const uint8_t* w, uint8_t* laid) {
  constexpr decltype(&tile<1, V>) kTiles[] = {tile<1, V>, tile<2, V>, tile<3, V>, tile<4, V>, tile<5, V>, tile<6, V>};
  const int64_t pixel = g.words * kHalves, strip = columns_of_strip(g), x_row = reach(g, strip) * pixel;
  Taps taps = {1, g.size_w * pixel, 0, 0, 0, x_row, g.size_w * pixel};
  if (g.dilation_w > 1) taps = {g.size_w, pixel, g.dilation_w * pixel, pixel, 0, x_row, g.size_w * pixel};
  alignas(32) int32_t some[kRows * V * kBlock];  // Integers, where they are not what is wanted, or not all of them are.
  const bool all = to.thresholds == nullptr && (block + V) * kBlock <= g.out;
  const int64_t step = all ? g.out : V * kBlock;
  for (int64_t line = first; line < last; ++line) {
    const uint32_t* image = x_words + line / g.rows * g.height * g.width * g.words;
    const int64_t y0 = line % g.rows * g.stride_h - g.top;
    int64_t i0, i1;
    inside(y0, g.size_h, g.dilation_h, g.height, &i0, &i1);
    taps.rows = i1 - i0;
    for (int64_t column = 0, laid_from = 0, laid_to = 0, wide; column < g.columns; column += wide) {
      if (column == laid_to) {
        laid_from = column, laid_to = least(column + strip, g.columns);
        spread_lines(g, image, y0, i0, i1, column * g.stride_w - g.left, reach(g, laid_to - column), laid, x_row);
      }
      wide = ceil_div(laid_to - column, ceil_div(laid_to - column, kRows));
      const int64_t at = line * g.columns + column;
      int32_t* y = all ? to.integers + at * g.out + block * kBlock : some;
      int32_t k[kRows];
      for (int64_t r = 0; r < wide; ++r) {
        int64_t j0, j1;
        inside((column + r) * g.stride_w - g.left, g.size_w, g.dilation_w, g.width, &j0, &j1);
        k[r] = static_cast<int32_t>((i1 - i0) * (j1 - j0) * g.channels);
        // What lies in an outer cache is on its way while others are counted.
        for (int64_t f = 0; all && f < V * kBlock; f += 16) __builtin_prefetch(y + r * step + f, 1);
      }
      const uint8_t* x = laid + i0 * x_row + (column - laid_from) * g.stride_w * pixel;
      kTiles[wide - 1](taps, x, g.stride_w * pixel, w + i0 * taps.w_row * V * kBlock, k, y, step);
      for (int64_t r = 0; !all && r < wide; ++r)
        for (int v = 0; v < V; ++v) write(some + r * step + v * kBlock, to, block + v, at + r, g.out);
    }
  }
}

void convolve(const Geometry& g, const uint32_t* x, const Weights& weights, const Result& to, int64_t block, int64_t first,
              int64_t last, uint32_t* room) {
  const int64_t words = g.size_h * g.size_w * g.words, together = least(kTogether, ceil_div(g.out, kBlock) - block);
  uint8_t* w = reinterpret_cast<uint8_t*>(room);
  for (int64_t k = 0; k < words; ++k)
    for (int64_t v = 0; v < together; ++v) {
      alignas(32) uint32_t some[kBlock];
      const uint32_t* of_block = words_of_block(weights, block + v, g.out, k, some);
      // Where filters are many the next words lie far off: further than a processor looks ahead by itself.
      const uint32_t* soon = of_block == some ? some : of_block + kAhead * weights.word_step;
      __builtin_prefetch(soon), __builtin_prefetch(soon + 16);
      lay(of_block, w + (k * kHalves * together + v) * kBlock, together * kBlock);
    }
  uint8_t* laid = w + words * kHalves * together * kBlock;
  (together == 2 ? lines<2> : lines<1>)(g, x, to, block, first, last, w, laid);
}

int64_t limit(int64_t times) {
  constexpr int64_t kDepth = 36;  // As deep as 3x3 windows of 128 channels: 18 KiB of half bytes.
  constexpr int64_t kLength = kDepth * kHalves;
  static uint8_t x[kRows * kLength];
  alignas(32) static uint8_t w[kLength * kTogether * kBlock];
  const Taps taps = {1, kLength, 0, 0, 1, 0, 0};
  const int32_t k[kRows] = {};
  alignas(32) int32_t y[kRows * kTogether * kBlock] = {};
  for (int64_t i = 0; i < times; ++i) {
    tile<kRows, kTogether>(taps, x, kLength, w, k, y, kTogether * kBlock);
    asm volatile("" : : "r"(y), "r"(x), "r"(w) : "memory");  // Else the compiler sees that all rounds are one.
  }
  return times * kRows * kDepth * 32 * kTogether * kBlock;
}

constexpr Kernels kKernels = {kTogether, room, convolve, convolve_floats, dot, dot_floats, pack,
                              narrow_words, narrow_room, narrow_prepare, convolve_narrow, limit, kFloatKernels, kMapKernels};

}  // namespace
}  // namespace bnn
