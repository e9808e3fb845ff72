// What the translation units of this library agree on: one job a kernel, one table of kernels an instruction set.
//
// Each instruction set is one file, compiled with its own flags and called only where the processor has it. Those files
// include no standard C++ header and keep everything else to themselves: an inline function compiled with wider
// instructions must never be the copy that the linker keeps for all.
#pragma once

#include <stdint.h>

namespace bnn {

constexpr int kBlock = 32;  // Filters of one block: a word of signs.

// A convolution, or a product of two matrices as that of an image of 1 x m with a 1x1 window. Of x as words: (images,
// height, width, words); as floats: (images, height, width, channels). y: (images, rows, columns, out). What lies outside
// the image contributes nothing.
struct Geometry {
  int64_t images, height, width, channels, words;
  int64_t size_h, size_w, stride_h, stride_w, top, left, dilation_h, dilation_w;
  int64_t rows, columns, out;
};

// Where a product goes. integers: (pixels, out), channels of all taps inside the image less 2 popcount(x xor w). Or, where
// thresholds (out,) are given, only signs: (pixels, ceil(out / 32)) words, a set bit where (integer < threshold) differs
// from flip (a word a block).
struct Result {
  int32_t* integers;
  const int32_t* thresholds;
  const uint32_t* flip;
  uint32_t* signs;
};

// Word k of filter f, taps and words of a tap counted through, lies at words[k * word_step + f * filter_step].
struct Weights {
  const uint32_t* words;
  int64_t word_step, filter_step;
};

// A convolution of floats, as a window that slides over images. x: (images, height, width, channels); the window has size_h x
// size_w taps, any number of them, also none, and begins `top` rows above and `left` columns left of the image (negative:
// within it); outside lie zeros. Result pixel (a, b) of an image, of `out` floats, lies at image * y_image + a * y_row +
// b * y_column.
struct Sliding {
  int64_t height, width, channels;
  int64_t size_h, size_w, stride_h, stride_w, top, left;
  int64_t rows, columns, out;
  int64_t y_image, y_row, y_column;
};

// Weight (i, j, c, f) lies at at[i * row + j * column + c * channel + f * filter].
struct Strided {
  const float* at;
  int64_t row, column, channel, filter;
};

// Products of floats with floats, as training makes them (floats.h).
struct FloatKernels {
  // Whether all of n numbers are +1 or -1.
  bool (*signs_alone)(const float* x, int64_t n);
  // n integers, to the floats that take their place.
  void (*to_floats)(int32_t* integers, int64_t n);
  // Floats of room for `slide`, and of the weights as `pack` lays them out for it, aligned or not.
  int64_t (*slide_room)(const Sliding&);
  int64_t (*packed_floats)(const Sliding&);
  void (*pack)(const Sliding&, const Strided& w, float* packed);
  // Result lines [first, last), counted through all images.
  void (*slide)(const Sliding&, const float* x, const float* packed, float* y, int64_t first, int64_t last, float* room);
  // A product of matrices: x (rows, terms), w (terms, out), y (rows, out), for blocks [first, last) of float_blocks(out). The
  // weights are read where they lie: laying them out would cost more than the product of a few rows. room: multiply_room().
  int64_t (*float_blocks)(int64_t out);
  int64_t (*multiply_room)();
  void (*multiply)(const float* x, int64_t rows, int64_t terms, const float* w, int64_t out, float* y, int64_t first, int64_t last,
                   float* room);
  // The kernel's gradient, of a result g (images, rows, columns, out), contiguous: adds what images [first_image, last_image)
  // contribute to parts [first_part, last_part) of `totals`: correlate_floats of them, (size_h, size_w, channels, out) with
  // `out` rounded up to whole vectors. room: for correlate_room floats.
  int64_t (*correlate_parts)(const Sliding&);
  int64_t (*correlate_floats)(const Sliding&);
  int64_t (*correlate_room)(const Sliding&);
  void (*correlate)(const Sliding&, const float* x, const float* g, float* totals, int64_t first_image,
                    int64_t last_image, int64_t first_part, int64_t last_part, float* room);
};

// What the runtime does with a map, number by number (maps.h). n numbers, or pixels times channels; y may be x.
struct MapKernels {
  // x scale[c], then times k[pixel], then plus bias[c]; what is nullptr is left out.
  void (*of_integers)(const int32_t* x, const float* scale, const float* k, const float* bias, float* y, int64_t channels,
                      int64_t pixels);
  void (*of_floats)(const float* x, const float* scale, const float* k, const float* bias, float* y, int64_t channels,
                    int64_t pixels);
  // (x + shift) scale, coefficients being (2, channels), scale and shift; shift alone where scale is 0.
  void (*normalize)(const float* x, const float* coefficients, float* y, int64_t channels, int64_t pixels);
  void (*add)(const float* a, const float* b, float* y, int64_t n);
  void (*relu)(const float* x, float* y, int64_t n);
  void (*hard_tanh)(const float* x, float* y, int64_t n);
  void (*leaky_relu)(const float* x, float slope, float* y, int64_t n);
  void (*prelu)(const float* x, const float* slopes, float* y, int64_t channels, int64_t pixels);
  // y = max(y, x).
  void (*highest)(const float* x, float* y, int64_t n);
  // Words of (y < thresholds) ^ flip.
  void (*compare)(const int32_t* y, const int32_t* thresholds, const uint32_t* flip, uint32_t* words, int64_t channels,
                  int64_t pixels);
};

struct Kernels {
  // How many blocks of filters `convolve` takes at a time, and how many words of room it wants for them.
  int64_t blocks;
  int64_t (*room)(const Geometry&);
  // Output lines [first, last), counted through all images, of `blocks` blocks of filters from `block` on, or as many as
  // there are. room: for `room` words, aligned to 64 bytes.
  void (*convolve)(const Geometry&, const uint32_t* x, const Weights&, const Result&, int64_t block, int64_t first,
                   int64_t last, uint32_t* room);
  // The same of floats with signs, of one block: y = sum of x where the bit is 0, of -x where it is set. room: kFloatRoom
  // floats.
  void (*convolve_floats)(const Geometry&, const float* x, const Weights&, float* y, int64_t block, int64_t first,
                          int64_t last, float* room);
  // y[row, f] = k - 2 popcount(x[row] xor w[f]) for filters [first, last), along contiguous words: for few rows.
  void (*dot)(const uint32_t* x, int64_t rows, const uint32_t* w, int64_t words, int64_t k, int32_t* y, int64_t out,
              int64_t first, int64_t last);
  // The same of floats with signs, x: (rows, k).
  void (*dot_floats)(const float* x, int64_t rows, const uint32_t* w, int64_t words, int64_t k, float* y, int64_t out,
                     int64_t first, int64_t last);
  // Words of the signs of rows [first, last) of x (rows, channels): a set bit where x is not above -(least normal number).
  // With coefficients (2, channels), scale and shift, of (x + shift) * scale instead, or of shift where scale is 0.
  void (*pack)(const float* x, const float* coefficients, int64_t channels, uint32_t* words, int64_t first,
               int64_t last);
  // A convolution in narrow groups (narrow.h), words along the filters: x (channels, images, height, width, words), weights
  // (size_h, size_w, channels, words), `channels` being those of a group. `narrow_prepare` lays weights and thresholds out
  // once a call, in narrow_words words; `convolve_narrow` makes the lines [first, last), in narrow_room words of its own.
  int64_t (*narrow_words)(const Geometry&);
  int64_t (*narrow_room)(const Geometry&);
  void (*narrow_prepare)(const Geometry&, const uint32_t* w, const Result&, uint32_t* prepared);
  void (*convolve_narrow)(const Geometry&, const uint32_t* x, const uint32_t* prepared, const Result&, int64_t first,
                          int64_t last, uint32_t* room);
  // Counts words that stay in the first-level cache, to nowhere: what the processor can do at most with these kernels.
  // Returns how many products of signs that was, for `times` rounds.
  int64_t (*limit)(int64_t times);
  FloatKernels floats;
  MapKernels maps;
};

// A tile of unpacked signs, 32 channels by kBlock filters, and the sums of kStrip pixels: 4 and 16 KiB.
constexpr int64_t kStrip = 128;
constexpr int64_t kFloatRoom = (32 + kStrip) * kBlock;

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2, kAvx512;
#elif defined(__aarch64__)
extern const Kernels kNeon;
#endif

}  // namespace bnn
