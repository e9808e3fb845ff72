// What XLA calls: checks the shapes, takes the kernels of the widest instruction set that the processor has, and shares
// the work among XLA's own threads.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "instructions.h"
#include "products.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

// The macros below take no comma within a type.
using Words1 = ffi::Buffer<ffi::U32, 1>;
using Words2 = ffi::Buffer<ffi::U32, 2>;
using Words4 = ffi::Buffer<ffi::U32, 4>;
using Words5 = ffi::Buffer<ffi::U32, 5>;
using Integers1 = ffi::Buffer<ffi::S32, 1>;
using Integers2 = ffi::Buffer<ffi::S32, 2>;
using Integers4 = ffi::Buffer<ffi::S32, 4>;
using Floats2 = ffi::Buffer<ffi::F32, 2>;
using Floats4 = ffi::Buffer<ffi::F32, 4>;
using Numbers = ffi::Span<const int64_t>;

namespace bnn {
namespace {

// The kernels of an instruction set; where the name is empty it becomes $BNN_INSTRUCTIONS, and if that is empty the widest
// are meant. None that the processor lacks.
const Kernels* kernels_of(std::string_view& name) {
  static const char* chosen = getenv("BNN_INSTRUCTIONS");
  if (name.empty() && chosen != nullptr) name = chosen;
  const Named* set = instruction_set(name);
  return set == nullptr ? nullptr : set->kernels;
}

// XLA's own threads. (Without memory for bookkeeping the process ends here, for XLA takes no exception.)
class Threads : public Pool {
 public:
  explicit Threads(ffi::ThreadPool& pool) : pool_(pool) {}
  int64_t threads() const override { return pool_.num_threads(); }
  void schedule(std::function<void()> work) override { pool_.Schedule(std::move(work)); }

 private:
  ffi::ThreadPool& pool_;
};

ffi::Error no_such_set(std::string_view name) {
  return ffi::Error::InvalidArgument("instruction set: got '" + std::string(name) + "', which this processor lacks");
}

// x: (images, height, width, ...), w: (height, width, words, out) of the window, y: (images, rows, columns, ...); numbers:
// strides (height, width), padding at the top and at the left, dilation (height, width).
ffi::Error fill(Geometry& g, Numbers x, Numbers w, Numbers y, Numbers numbers, int64_t channels) {
  if (numbers.size() != 6 || channels < 1 || w[2] != (channels + 31) / 32 || y[0] != x[0])
    return ffi::Error::InvalidArgument("convolution: shapes that do not fit");
  g = {x[0],       x[1],       x[2],       channels,   w[2],       w[0], w[1], numbers[0],
       numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], y[1], y[2], w[3]};
  return ffi::Error::Success();
}

ffi::Error convolution(ffi::ThreadPool pool, Words4 x, Words4 w, ffi::Result<Integers4> y, std::string_view instructions,
                       int64_t channels, Numbers geometry) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  Geometry g;
  auto error = fill(g, x.dimensions(), w.dimensions(), y->dimensions(), geometry, channels);
  if (error.failure()) return error;
  if (x.dimensions()[3] != g.words || y->dimensions()[3] != g.out)
    return ffi::Error::InvalidArgument("convolution: shapes that do not fit");
  Threads threads(pool);
  convolve(threads, *kernels, g, x.typed_data(), {w.typed_data(), g.out, 1}, {y->typed_data(), nullptr, nullptr, nullptr});
  return error;
}

ffi::Error convolution_signs(ffi::ThreadPool pool, Words4 x, Words4 w, Integers1 thresholds, Words1 flip,
                             ffi::Result<Words4> y, std::string_view instructions, int64_t channels, Numbers geometry) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  Geometry g;
  auto error = fill(g, x.dimensions(), w.dimensions(), y->dimensions(), geometry, channels);
  if (error.failure()) return error;
  const int64_t blocks = (g.out + kBlock - 1) / kBlock;
  if (x.dimensions()[3] != g.words || y->dimensions()[3] != blocks || thresholds.dimensions()[0] != g.out ||
      flip.dimensions()[0] != blocks)
    return ffi::Error::InvalidArgument("convolution: shapes that do not fit");
  const Result to = {nullptr, thresholds.typed_data(), flip.typed_data(), y->typed_data()};
  Threads threads(pool);
  convolve(threads, *kernels, g, x.typed_data(), {w.typed_data(), g.out, 1}, to);
  return error;
}

ffi::Error convolution_floats(ffi::ThreadPool pool, Floats4 x, Words4 w, ffi::Result<Floats4> y,
                              std::string_view instructions, Numbers geometry) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  Geometry g;
  auto error = fill(g, x.dimensions(), w.dimensions(), y->dimensions(), geometry, x.dimensions()[3]);
  if (error.failure()) return error;
  Threads threads(pool);
  convolve(threads, *kernels, g, x.typed_data(), {w.typed_data(), g.out, 1}, y->typed_data());
  return error;
}

// Narrow groups: x (channels of a group, images, height, width, words), w (height, width, channels of a group, words), both
// along the filters.
ffi::Error convolve_narrow(ffi::ThreadPool& pool, std::string_view instructions, const Words5& x, const Words4& w,
                           const Result& to, Numbers y, int64_t out, Numbers numbers) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  const auto of_x = x.dimensions(), of_w = w.dimensions();
  if (numbers.size() != 6 || y[0] != of_x[1] || of_x[0] != of_w[2] || of_x[4] != of_w[3] || of_x[4] != (out + 31) / 32)
    return ffi::Error::InvalidArgument("convolution in narrow groups: shapes that do not fit");
  const Geometry g = {of_x[1],    of_x[2],    of_x[3],    of_w[2],    of_w[3],    of_w[0], of_w[1], numbers[0],
                      numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], y[1],    y[2],    out};
  Threads threads(pool);
  convolve_narrow(threads, *kernels, g, x.typed_data(), w.typed_data(), to);
  return ffi::Error::Success();
}

ffi::Error narrow(ffi::ThreadPool pool, Words5 x, Words4 w, ffi::Result<Integers4> y, std::string_view instructions,
                  Numbers geometry) {
  const Result to = {y->typed_data(), nullptr, nullptr, nullptr};
  return convolve_narrow(pool, instructions, x, w, to, y->dimensions(), y->dimensions()[3], geometry);
}

ffi::Error narrow_signs(ffi::ThreadPool pool, Words5 x, Words4 w, Integers1 thresholds, Words1 flip,
                        ffi::Result<Words4> y, std::string_view instructions, Numbers geometry) {
  const int64_t out = thresholds.dimensions()[0], words = (out + 31) / 32;
  if (y->dimensions()[3] != words || flip.dimensions()[0] != words)
    return ffi::Error::InvalidArgument("convolution in narrow groups: shapes that do not fit");
  const Result to = {nullptr, thresholds.typed_data(), flip.typed_data(), y->typed_data()};
  return convolve_narrow(pool, instructions, x, w, to, y->dimensions(), out, geometry);
}

ffi::Error product(ffi::ThreadPool pool, Words2 x, Words2 w, ffi::Result<Integers2> y, std::string_view instructions,
                   int64_t k) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  const int64_t rows = x.dimensions()[0], words = x.dimensions()[1], out = w.dimensions()[0];
  if (words < 1 || w.dimensions()[1] != words) return ffi::Error::InvalidArgument("product: shapes that do not fit");
  Threads threads(pool);
  multiply(threads, *kernels, x.typed_data(), rows, w.typed_data(), words, k, y->typed_data(), out);
  return ffi::Error::Success();
}

ffi::Error product_floats(ffi::ThreadPool pool, Floats2 x, Words2 w, ffi::Result<Floats2> y,
                          std::string_view instructions) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  const int64_t rows = x.dimensions()[0], k = x.dimensions()[1], out = w.dimensions()[0], words = w.dimensions()[1];
  if (words < 1 || words != (k + 31) / 32) return ffi::Error::InvalidArgument("product: shapes that do not fit");
  Threads threads(pool);
  multiply_floats(threads, *kernels, x.typed_data(), rows, w.typed_data(), words, k, y->typed_data(), out);
  return ffi::Error::Success();
}

ffi::Error pack(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> coefficients,
                ffi::ResultBuffer<ffi::U32> words, std::string_view instructions) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  const int64_t channels = x.dimensions().back(), rows = channels == 0 ? 0 : x.element_count() / channels;
  const int64_t n_words = words->dimensions().back();
  const int64_t numbers = coefficients.element_count();
  if (n_words != (channels + 31) / 32 || (numbers != 0 && numbers != 2 * channels))
    return ffi::Error::InvalidArgument("packing: shapes that do not fit");
  const float* c = numbers == 0 ? nullptr : coefficients.typed_data();
  Threads threads(pool);
  pack_signs(threads, *kernels, x.typed_data(), c, channels, rows, words->typed_data());
  return ffi::Error::Success();
}

// Convolutions of floats. numbers: strides (height, width), padding at the top and at the left.
ffi::Error do_not_fit() { return ffi::Error::InvalidArgument("convolution: shapes that do not fit"); }

// x: (images, height, width, channels) and w: (height, width, channels, out) of the window; y: (images, rows, columns, out).
bool fit(Numbers x, Numbers w, Numbers y, Numbers numbers) {
  return numbers.size() == 4 && numbers[0] > 0 && numbers[1] > 0 && w[2] == x[3] && y[0] == x[0] && y[3] == w[3];
}

Sliding sliding(Numbers x, Numbers w, Numbers y, Numbers numbers) {
  return {x[1],       x[2],       x[3], w[0], w[1], numbers[0],         numbers[1],  numbers[2],
          numbers[3], y[1],       y[2], y[3], y[1] * y[2] * y[3], y[2] * y[3], y[3]};
}

void slide(Pool& pool, const FloatKernels& kernels, const Sliding& s, int64_t images, const float* x, const Strided& w,
           float* y) {
  const Room packed = room_for(kernels.packed_floats(s));
  kernels.pack(s, w, packed.get());
  slide(pool, kernels, s, images, x, packed.get(), y);
}

// Where x and w are signs alone, y is counted in bits: the same numbers, as float sums of so few integers are exact. Returns
// whether they were; else nothing is to be read from y.
constexpr int64_t kFewChannels = 8, kMostTerms = 1 << 24, kPixelsAtOnce = 256;

bool counted(Pool& pool, const Kernels& kernels, const Sliding& s, int64_t images, const float* x,
             const float* w, float* y) {
  const int64_t taps = s.size_h * s.size_w, words = (s.channels + 31) / 32, pixels = images * s.height * s.width;
  const int64_t lines = images * s.rows;
  if (s.channels < kFewChannels || taps * s.channels > kMostTerms || lines * s.columns * s.out == 0) return false;
  if (!kernels.floats.signs_alone(x, std::min<int64_t>(pixels * s.channels, 64))) return false;
  if (!kernels.floats.signs_alone(w, taps * s.channels * s.out)) return false;
  const std::unique_ptr<uint32_t[]> x_words(new uint32_t[pixels * words]), w_words(new uint32_t[taps * words * s.out]());
  std::atomic<bool> signs{true};
  const int64_t tasks = parts(pool, pixels, pixels * s.channels / 4);
  share(pool, tasks, [&](int64_t task) {
    const int64_t end = pixels * (task + 1) / tasks;
    for (int64_t first = pixels * task / tasks, last; first < end && signs.load(std::memory_order_relaxed); first = last) {
      last = std::min(first + kPixelsAtOnce, end);
      if (!kernels.floats.signs_alone(x + first * s.channels, (last - first) * s.channels)) signs = false;
      kernels.pack(x, nullptr, s.channels, x_words.get() + first * words, first, last);
    }
  });
  if (!signs) return false;
  for (int64_t tap = 0; tap < taps; ++tap)
    for (int64_t c = 0; c < s.channels; ++c) {
      uint32_t* to = w_words.get() + (tap * words + c / 32) * s.out;
      const float* from = w + (tap * s.channels + c) * s.out;
      for (int64_t f = 0; f < s.out; ++f) to[f] |= static_cast<uint32_t>(from[f] < 0) << (c % 32);
    }
  const Geometry g = {images, s.height, s.width, s.channels, words, s.size_h, s.size_w, s.stride_h, s.stride_w, s.top,
                      s.left, 1,        1,       s.rows,     s.columns, s.out};
  int32_t* integers = reinterpret_cast<int32_t*>(y);
  const auto work = [&](int64_t block, int64_t first, int64_t last, uint32_t* room) {
    // A few lines at a time, which become floats while they are in the cache.
    const int64_t few = std::max<int64_t>(1, kPixelsAtOnce / s.columns);
    const int64_t from = block * kBlock, some = std::min<int64_t>(kernels.blocks * kBlock, s.out - from);
    for (int64_t line = first; line < last; line += few) {
      const int64_t end = std::min(line + few, last);
      kernels.convolve(g, x_words.get(), {w_words.get(), s.out, 1}, {integers, nullptr, nullptr, nullptr}, block, line, end,
                       room);
      for (int64_t pixel = line * s.columns; pixel < end * s.columns; ++pixel)
        kernels.floats.to_floats(integers + pixel * s.out + from, some);
    }
  };
  by_blocks(pool, s.out, lines, lines * s.columns * s.out * depth(g), kernels.blocks, kernels.room(g), work);
  return true;
}

ffi::Error float_convolution(ffi::ThreadPool pool, Floats4 x, Floats4 w, ffi::Result<Floats4> y,
                             std::string_view instructions, Numbers geometry) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  const Numbers of_x = x.dimensions(), of_w = w.dimensions(), of_y = y->dimensions();
  if (!fit(of_x, of_w, of_y, geometry)) return do_not_fit();
  const Sliding s = sliding(of_x, of_w, of_y, geometry);
  Threads threads(pool);
  if (counted(threads, *kernels, s, of_x[0], x.typed_data(), w.typed_data(), y->typed_data())) return ffi::Error::Success();
  const Strided weights = {w.typed_data(), of_w[1] * of_w[2] * of_w[3], of_w[2] * of_w[3], of_w[3], 1};
  slide(threads, kernels->floats, s, of_x[0], x.typed_data(), weights, y->typed_data());
  return ffi::Error::Success();
}

ffi::Error float_product(ffi::ThreadPool pool, Floats2 x, Floats2 w, ffi::Result<Floats2> y, std::string_view instructions) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  const int64_t rows = x.dimensions()[0], terms = x.dimensions()[1], out = w.dimensions()[1];
  if (terms < 1 || w.dimensions()[0] != terms || y->dimensions()[0] != rows || y->dimensions()[1] != out)
    return ffi::Error::InvalidArgument("product of floats: shapes that do not fit");
  if (rows == 0 || out == 0) return ffi::Error::Success();
  Threads threads(pool);
  const int64_t blocks = kernels->floats.float_blocks(out), tasks = parts(threads, blocks, rows * terms * out / 16);
  share(threads, tasks, [&](int64_t task) {
    const Room room = room_for(kernels->floats.multiply_room());
    kernels->floats.multiply(x.typed_data(), rows, terms, w.typed_data(), out, y->typed_data(), blocks * task / tasks,
                             blocks * (task + 1) / tasks, room.get());
  });
  return ffi::Error::Success();
}

// Along one axis: which taps see the pixels start, start + stride, ... of an image, and where in g. Tap `last` - stride * k of
// the window, k of `taps`, sees the m-th of these pixels in row m - before + k of g.
struct Phase {
  int64_t taps, last, before, pixels;
};
Phase phase(int64_t start, int64_t stride, int64_t size, int64_t pad, int64_t extent) {
  const int64_t first = (start + pad) % stride, taps = first < size ? (size - 1 - first) / stride + 1 : 0;
  return {taps, first + stride * (taps - 1), taps - 1 - (start + pad - first) / stride, (extent - start + stride - 1) / stride};
}

// The convolution turned round: for the pixels of each phase of the strides it is one of g, at stride 1, with the taps that see
// these pixels, the last one first.
ffi::Error float_input_gradient(ffi::ThreadPool pool, Floats4 w, Floats4 g, ffi::Result<Floats4> x,
                                std::string_view instructions, Numbers geometry) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  const Numbers of_x = x->dimensions(), of_w = w.dimensions(), of_g = g.dimensions();
  if (!fit(of_x, of_w, of_g, geometry)) return do_not_fit();
  const int64_t channels = of_x[3], filters = of_w[3], stride_h = geometry[0], stride_w = geometry[1];
  const int64_t column = channels * filters, row = of_w[1] * column;
  Threads threads(pool);
  for (int64_t u = 0; u < std::min(stride_h, of_x[1]); ++u)
    for (int64_t v = 0; v < std::min(stride_w, of_x[2]); ++v) {
      const Phase h = phase(u, stride_h, of_w[0], geometry[2], of_x[1]), l = phase(v, stride_w, of_w[1], geometry[3], of_x[2]);
      const Sliding s = {of_g[1], of_g[2], filters,  h.taps,   l.taps,   1, 1, h.before, l.before, h.pixels, l.pixels,
                         channels, of_x[1] * of_x[2] * channels, stride_h * of_x[2] * channels, stride_w * channels};
      const Strided weights = {w.typed_data() + h.last * row + l.last * column, -stride_h * row, -stride_w * column, 1, filters};
      slide(threads, kernels->floats, s, of_x[0], g.typed_data(), weights, x->typed_data() + (u * of_x[2] + v) * channels);
    }
  return ffi::Error::Success();
}

// A kernel's gradient is summed up in kTotals parts of the images, or fewer where it is large, and these in their order: how
// many depends on the shapes alone, and so then does every rounding.
constexpr int64_t kTotals = 8, kLargeTotals = 1 << 19;

ffi::Error float_kernel_gradient(ffi::ThreadPool pool, Floats4 x, Floats4 g, ffi::Result<Floats4> w,
                                 std::string_view instructions, Numbers geometry) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  const Numbers of_x = x.dimensions(), of_w = w->dimensions(), of_g = g.dimensions();
  if (!fit(of_x, of_w, of_g, geometry)) return do_not_fit();
  const int64_t all = w->element_count();
  if (all == 0) return ffi::Error::Success();
  const Sliding s = sliding(of_x, of_w, of_g, geometry);
  const FloatKernels& floats = kernels->floats;
  const int64_t images = of_x[0], size = floats.correlate_floats(s), wide = size / (all / s.out);
  const int64_t groups = std::max<int64_t>(1, std::min({images, kTotals, kLargeTotals / size}));
  const Room totals = room_for(groups * size);
  Threads threads(pool);
  const int64_t wanted = parts(threads, images * s.rows * s.size_h, images * s.rows * products_of_a_line(s) / 16);
  const int64_t by_part = std::min(floats.correlate_parts(s), (wanted + groups - 1) / groups);
  const int64_t rows = s.size_h * s.size_w * s.channels;
  if (s.rows * s.columns * images == 0) {
    std::fill_n(w->typed_data(), all, 0.f);
    return ffi::Error::Success();
  }
  std::fill_n(totals.get(), groups * size, 0.f);
  share(threads, groups * by_part, [&](int64_t task) {
    const int64_t group = task / by_part, part = task % by_part, every = floats.correlate_parts(s);
    const Room room = room_for(floats.correlate_room(s));
    floats.correlate(s, x.typed_data(), g.typed_data(), totals.get() + group * size, images * group / groups,
                     images * (group + 1) / groups, every * part / by_part, every * (part + 1) / by_part, room.get());
  });
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t f = 0; f < s.out; ++f) {
      float total = totals[r * wide + f];
      for (int64_t k = 1; k < groups; ++k) total += totals[k * size + r * wide + f];
      w->typed_data()[r * s.out + f] = total;
    }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace bnn

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_jax_convolution, bnn::convolution,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Words4>()
                                  .Arg<Words4>()
                                  .Ret<Integers4>()
                                  .Attr<std::string_view>("instructions")
                                  .Attr<int64_t>("channels")
                                  .Attr<Numbers>("geometry"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_jax_convolution_signs, bnn::convolution_signs,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Words4>()
                                  .Arg<Words4>()
                                  .Arg<Integers1>()
                                  .Arg<Words1>()
                                  .Ret<Words4>()
                                  .Attr<std::string_view>("instructions")
                                  .Attr<int64_t>("channels")
                                  .Attr<Numbers>("geometry"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_jax_convolution_floats, bnn::convolution_floats,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats4>()
                                  .Arg<Words4>()
                                  .Ret<Floats4>()
                                  .Attr<std::string_view>("instructions")
                                  .Attr<Numbers>("geometry"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_jax_narrow, bnn::narrow,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Words5>()
                                  .Arg<Words4>()
                                  .Ret<Integers4>()
                                  .Attr<std::string_view>("instructions")
                                  .Attr<Numbers>("geometry"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_jax_narrow_signs, bnn::narrow_signs,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Words5>()
                                  .Arg<Words4>()
                                  .Arg<Integers1>()
                                  .Arg<Words1>()
                                  .Ret<Words4>()
                                  .Attr<std::string_view>("instructions")
                                  .Attr<Numbers>("geometry"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_jax_product_floats, bnn::product_floats,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats2>()
                                  .Arg<Words2>()
                                  .Ret<Floats2>()
                                  .Attr<std::string_view>("instructions"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_jax_product, bnn::product,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Words2>()
                                  .Arg<Words2>()
                                  .Ret<Integers2>()
                                  .Attr<std::string_view>("instructions")
                                  .Attr<int64_t>("k"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_jax_pack, bnn::pack,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::U32>>()
                                  .Attr<std::string_view>("instructions"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_jax_float_convolution, bnn::float_convolution,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats4>()
                                  .Arg<Floats4>()
                                  .Ret<Floats4>()
                                  .Attr<std::string_view>("instructions")
                                  .Attr<Numbers>("geometry"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_jax_float_product, bnn::float_product,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats2>()
                                  .Arg<Floats2>()
                                  .Ret<Floats2>()
                                  .Attr<std::string_view>("instructions"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_jax_float_input_gradient, bnn::float_input_gradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats4>()
                                  .Arg<Floats4>()
                                  .Ret<Floats4>()
                                  .Attr<std::string_view>("instructions")
                                  .Attr<Numbers>("geometry"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_jax_float_kernel_gradient, bnn::float_kernel_gradient,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats4>()
                                  .Arg<Floats4>()
                                  .Ret<Floats4>()
                                  .Attr<std::string_view>("instructions")
                                  .Attr<Numbers>("geometry"));

extern "C" {

// 65536 major + minor of the interface that these handlers were built against: an older framework refuses them.
int32_t bnn_interface() { return XLA_FFI_API_MAJOR * 65536 + XLA_FFI_API_MINOR; }

// Runs the limit's rounds on the calling thread (kernels.h); -1 where the processor lacks the instruction set.
int64_t bnn_limit(const char* instructions, int64_t times) {
  std::string_view name = instructions;
  const bnn::Kernels* kernels = bnn::kernels_of(name);
  return kernels == nullptr ? -1 : kernels->limit(times);
}
}
