// What XLA calls: checks the shapes, takes the kernels of the widest instruction set that the processor has, and shares
// the work among XLA's own threads.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "kernels.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

// The macros below take no comma within a type.
using Words1 = ffi::Buffer<ffi::U32, 1>;
using Words2 = ffi::Buffer<ffi::U32, 2>;
using Words4 = ffi::Buffer<ffi::U32, 4>;
using Integers1 = ffi::Buffer<ffi::S32, 1>;
using Integers2 = ffi::Buffer<ffi::S32, 2>;
using Integers4 = ffi::Buffer<ffi::S32, 4>;
using Geometry = ffi::Span<const int64_t>;

namespace bnn {
namespace {



struct Named {
  const char* name;
  const Kernels* kernels;
  bool (*there)();
};

// The widest first. `there` may only ask, for it runs on every processor.
const Named kAll[] = {
#if defined(__x86_64__)
    {"avx512", &kAvx512,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vpopcntdq");
     }},
    {"avx2", &kAvx2, [] { return static_cast<bool>(__builtin_cpu_supports("avx2")); }},
#elif defined(__aarch64__)
    {"neon", &kNeon, [] { return true; }},
#endif
    {"portable", &kPortable, [] { return true; }},
};

// The kernels of an instruction set; where the name is empty of $BNN_INSTRUCTIONS, or else of the widest. None that the
// processor lacks.
const Kernels* kernels_of(std::string_view name) {
  static const char* chosen = getenv("BNN_INSTRUCTIONS");
  if (name.empty() && chosen != nullptr) name = chosen;
  for (const Named& set : kAll)
    if ((name.empty() || name == set.name) && set.there()) return set.kernels;
  return nullptr;
}

// Calls work(task) for each task in [0, tasks), on the calling thread and as many others as the pool has free. Returns
// when all are done. A helper that starts late finds nothing left and touches nothing of the caller's.
void share(ffi::ThreadPool& pool, int64_t tasks, const std::function<void(int64_t)>& work) {
  struct State {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable finished;
  };
  const auto state = std::make_shared<State>();
  const auto run = [state, tasks, call = &work] {
    for (int64_t task; (task = state->next.fetch_add(1)) < tasks;) {
      (*call)(task);
      if (state->done.fetch_add(1) + 1 == tasks) {
        const std::lock_guard<std::mutex> lock(state->mutex);
        state->finished.notify_all();
      }
    }
  };
  const int64_t helpers = std::min<int64_t>(pool.num_threads(), tasks) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(std::function<void()>(run));
  run();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->finished.wait(lock, [&] { return state->done.load() == tasks; });
}

// Tasks of one core each are a loss below this many words' comparisons.
constexpr int64_t kWorthATask = 1 << 17;

// How many parts to cut `whole` into, where each thread is to have a few and none less than its worth.
int64_t parts(const ffi::ThreadPool& pool, int64_t whole, int64_t cost) {
  const int64_t wanted = pool.num_threads() <= 1 ? 1 : 4 * pool.num_threads();
  return std::max<int64_t>(1, std::min({whole, wanted, cost / kWorthATask}));
}

void convolve(ffi::ThreadPool& pool, const Kernels& kernels, const Convolution& c, const Weights& weights,
              const Result& to) {
  const int64_t blocks = (c.out + kBlock - 1) / kBlock, lines = c.images * c.rows;
  const int64_t depth = c.size_h * c.size_w * c.words;
  if (lines == 0 || c.columns == 0) return;
  const int64_t wanted = parts(pool, blocks * lines, lines * c.columns * c.out * depth);
  const int64_t by_block = std::min(blocks, wanted), by_line = std::min(lines, (wanted + by_block - 1) / by_block);
  share(pool, by_block * by_line, [&](int64_t task) {
    const int64_t part = task % by_block, strip = task / by_block;
    std::vector<uint32_t> room(depth * kBlock + 16);
    uint32_t* aligned = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) % 64 / sizeof(uint32_t);
    for (int64_t block = blocks * part / by_block; block < blocks * (part + 1) / by_block; ++block)
      kernels.convolve(c, weights, to, block, lines * strip / by_line, lines * (strip + 1) / by_line, aligned);
  });
}

ffi::Error no_such_set(std::string_view name) {
  return ffi::Error::InvalidArgument("instruction set: got '" + std::string(name) + "', which this processor lacks");
}

// geometry: strides (height, width), padding at the top and at the left.
ffi::Error fill(Convolution& c, Words4& x, Words4& w,
                Geometry geometry, int64_t channels, ffi::Span<const int64_t> y) {
  const auto xs = x.dimensions(), ws = w.dimensions();
  if (geometry.size() != 4 || xs[3] != ws[2] || y[0] != xs[0])
    return ffi::Error::InvalidArgument("convolution: shapes that do not fit");
  c = {x.typed_data(), xs[0], xs[1],       xs[2],       xs[3],       ws[0], ws[1], geometry[0],
       geometry[1],    geometry[2], geometry[3], y[1],        y[2],        ws[3], channels};
  return ffi::Error::Success();
}

ffi::Error convolution(ffi::ThreadPool pool, Words4 x, Words4 w,
                       ffi::Result<Integers4> y, std::string_view instructions, int64_t channels,
                       Geometry geometry) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  Convolution c;
  if (auto error = fill(c, x, w, geometry, channels, y->dimensions()); error.failure()) return error;
  convolve(pool, *kernels, c, {w.typed_data(), c.out, 1}, {y->typed_data(), nullptr, nullptr, nullptr});
  return ffi::Error::Success();
}

ffi::Error convolution_signs(ffi::ThreadPool pool, Words4 x, Words4 w,
                             Integers1 thresholds, Words1 flip,
                             ffi::Result<Words4> y, std::string_view instructions, int64_t channels,
                             Geometry geometry) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  Convolution c;
  if (auto error = fill(c, x, w, geometry, channels, y->dimensions()); error.failure()) return error;
  const Result to = {nullptr, thresholds.typed_data(), flip.typed_data(), y->typed_data()};
  convolve(pool, *kernels, c, {w.typed_data(), c.out, 1}, to);
  return ffi::Error::Success();
}

// Up to so many rows, putting w's words in the order of `convolve` would cost more than the product.
constexpr int64_t kFew = 4;

ffi::Error product(ffi::ThreadPool pool, Words2 x, Words2 w,
                   ffi::Result<Integers2> y, std::string_view instructions, int64_t k) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  const int64_t rows = x.dimensions()[0], words = x.dimensions()[1], out = w.dimensions()[0];
  if (w.dimensions()[1] != words) return ffi::Error::InvalidArgument("product: shapes that do not fit");
  if (rows > kFew) {
    const Convolution c = {x.typed_data(), 1, 1, rows, words, 1, 1, 1, 1, 0, 0, 1, rows, out, k};
    convolve(pool, *kernels, c, {w.typed_data(), 1, words}, {y->typed_data(), nullptr, nullptr, nullptr});
    return ffi::Error::Success();
  }
  const int64_t tasks = parts(pool, out, rows * out * words);
  share(pool, tasks, [&](int64_t task) {
    kernels->dot(x.typed_data(), rows, w.typed_data(), words, static_cast<int32_t>(k), y->typed_data(), out,
                 out * task / tasks, out * (task + 1) / tasks);
  });
  return ffi::Error::Success();
}

ffi::Error pack(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> coefficients,
                ffi::ResultBuffer<ffi::U32> words, std::string_view instructions) {
  const Kernels* kernels = kernels_of(instructions);
  if (kernels == nullptr) return no_such_set(instructions);
  const int64_t channels = x.dimensions().back(), rows = channels == 0 ? 0 : x.element_count() / channels;
  const int64_t n_words = words->dimensions().back();
  const float* c = coefficients.element_count() == 0 ? nullptr : coefficients.typed_data();
  const int64_t tasks = parts(pool, rows, rows * channels / 4);
  share(pool, tasks, [&](int64_t task) {
    const int64_t first = rows * task / tasks;
    kernels->pack(x.typed_data(), c, channels, words->typed_data() + first * n_words, first, rows * (task + 1) / tasks);
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace bnn

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_convolution, bnn::convolution,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Words4>()
                                  .Arg<Words4>()
                                  .Ret<Integers4>()
                                  .Attr<std::string_view>("instructions")
                                  .Attr<int64_t>("channels")
                                  .Attr<Geometry>("geometry"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_convolution_signs, bnn::convolution_signs,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Words4>()
                                  .Arg<Words4>()
                                  .Arg<Integers1>()
                                  .Arg<Words1>()
                                  .Ret<Words4>()
                                  .Attr<std::string_view>("instructions")
                                  .Attr<int64_t>("channels")
                                  .Attr<Geometry>("geometry"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_product, bnn::product,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Words2>()
                                  .Arg<Words2>()
                                  .Ret<Integers2>()
                                  .Attr<std::string_view>("instructions")
                                  .Attr<int64_t>("k"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(bnn_pack, bnn::pack,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::U32>>()
                                  .Attr<std::string_view>("instructions"));

extern "C" {

// 65536 major + minor of the interface that these handlers were built against: an older framework refuses them.
int32_t bnn_interface() { return XLA_FFI_API_MAJOR * 65536 + XLA_FFI_API_MINOR; }

// The instruction sets of this processor, widest first, separated by spaces.
const char* bnn_instruction_sets() {
  static const std::string names = [] {
    std::string all;
    for (const bnn::Named& set : bnn::kAll)
      if (set.there()) all += (all.empty() ? "" : " ") + std::string(set.name);
    return all;
  }();
  return names.c_str();
}

// Runs the limit's rounds on the calling thread (kernels.h); -1 where the processor lacks the instruction set.
int64_t bnn_limit(const char* instructions, int64_t times) {
  const bnn::Kernels* kernels = bnn::kernels_of(instructions);
  return kernels == nullptr ? -1 : kernels->limit(times);
}

// A digest of the sources, given by the build: what is loaded is what is read.
const char* bnn_sources() { return BNN_SOURCES; }
}
