// Whole products, made of the kernels of an instruction set and shared out among threads: what XLA's handlers (native.cc) and
// the layers of the runtime both call.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <new>
#include <thread>

#include "kernels.h"

namespace bnn {

// Threads that may help the one that calls: XLA's own, or the runtime's.
class Pool {
 public:
  virtual ~Pool() = default;
  // How many threads there are, the caller's counted in or not: more parts than that are made in any case.
  virtual int64_t threads() const = 0;
  // Has one of them call `work`, some time. May throw std::bad_alloc.
  virtual void schedule(std::function<void()> work) = 0;
};

// Calls work(task) for each task in [0, tasks), on the calling thread and as many others as the pool has free. Returns
// when all are done. A helper that starts late finds nothing left and touches nothing of the caller's. Throws std::bad_alloc
// where a task did.
inline void share(Pool& pool, int64_t tasks, const std::function<void(int64_t)>& work) {
  const int64_t helpers = std::min<int64_t>(pool.threads(), tasks) - 1;
  if (helpers < 1) {
    for (int64_t task = 0; task < tasks; ++task) work(task);
    return;
  }
  struct State {
    std::atomic<int64_t> next{0}, done{0};
    std::atomic<bool> failed{false};
  };
  const auto state = std::make_shared<State>();
  const auto run = [state, tasks, call = &work] {
    for (int64_t task; (task = state->next.fetch_add(1)) < tasks; state->done.fetch_add(1)) {
      try {
        (*call)(task);
      } catch (const std::bad_alloc&) {
        state->failed = true;  // Others are at work on the caller's memory: it hears of it when they are done.
      }
    }
  };
  try {
    for (int64_t i = 0; i < helpers; ++i) pool.schedule(run);
  } catch (const std::bad_alloc&) {
    // Then there are fewer helpers.
  }
  run();
  // The others are at their last task: it would take longer to be woken than to wait.
  while (state->done.load() < tasks) std::this_thread::yield();
  if (state->failed) throw std::bad_alloc();
}

// Tasks of one core each are a loss below this many words' comparisons.
constexpr int64_t kWorthATask = 1 << 17;

// How many parts to cut `whole` into, where each thread is to have a few and none less than its worth.
inline int64_t parts(const Pool& pool, int64_t whole, int64_t cost) {
  const int64_t wanted = pool.threads() <= 1 ? 1 : 4 * pool.threads();
  return std::max<int64_t>(1, std::min({whole, wanted, cost / kWorthATask}));
}

// Calls work(block, first line, last line, room) for every `together` blocks of `out` filters and every strip of lines; room:
// aligned, of `words` words.
template <typename Work>
void by_blocks(Pool& pool, int64_t out, int64_t lines, int64_t cost, int64_t together, int64_t words, const Work& work) {
  const int64_t groups = (out + together * kBlock - 1) / (together * kBlock);
  if (groups == 0 || lines == 0) return;
  const int64_t wanted = parts(pool, groups * lines, cost);
  const int64_t by_group = std::min(groups, wanted), by_line = std::min(lines, (wanted + by_group - 1) / by_group);
  share(pool, by_group * by_line, [&](int64_t task) {
    const int64_t part = task % by_group, strip = task / by_group;
    const std::unique_ptr<uint32_t[]> room(new uint32_t[words + 16]);
    uint32_t* aligned = room.get() + (64 - reinterpret_cast<uintptr_t>(room.get()) % 64) % 64 / sizeof(uint32_t);
    for (int64_t group = groups * part / by_group; group < groups * (part + 1) / by_group; ++group)
      work(group * together, lines * strip / by_line, lines * (strip + 1) / by_line, aligned);
  });
}

inline int64_t depth(const Geometry& g) { return g.size_h * g.size_w * g.words; }

// A convolution of words.
inline void convolve(Pool& pool, const Kernels& kernels, const Geometry& g, const uint32_t* x, const Weights& weights,
                     const Result& to) {
  const int64_t lines = g.columns == 0 ? 0 : g.images * g.rows, cost = lines * g.columns * g.out * depth(g);
  const auto work = [&](int64_t block, int64_t first, int64_t last, uint32_t* room) {
    kernels.convolve(g, x, weights, to, block, first, last, room);
  };
  by_blocks(pool, g.out, lines, cost, kernels.blocks, kernels.room(g), work);
}

// Of floats with signs.
inline void convolve(Pool& pool, const Kernels& kernels, const Geometry& g, const float* x, const Weights& weights,
                     float* y) {
  const int64_t lines = g.columns == 0 ? 0 : g.images * g.rows, cost = lines * g.columns * g.out * depth(g) * 8;
  by_blocks(pool, g.out, lines, cost, 1, kFloatRoom, [&](int64_t block, int64_t first, int64_t last, uint32_t* room) {
    kernels.convolve_floats(g, x, weights, y, block, first, last, reinterpret_cast<float*>(room));
  });
}

// In narrow groups: x (channels of a group, images, height, width, words), w (size_h, size_w, channels of a group, words).
inline void convolve_narrow(Pool& pool, const Kernels& kernels, const Geometry& g, const uint32_t* x, const uint32_t* w,
                            const Result& to) {
  if (g.images * g.height * g.width * g.channels * g.words == 0 || depth(g) == 0 || g.rows * g.columns == 0) return;
  const std::unique_ptr<uint32_t[]> prepared(new uint32_t[kernels.narrow_words(g)]);
  kernels.narrow_prepare(g, w, to, prepared.get());
  const int64_t lines = g.images * g.rows, room = kernels.narrow_room(g);
  const int64_t tasks = parts(pool, lines, lines * g.columns * depth(g) * g.channels);
  share(pool, tasks, [&](int64_t task) {
    const std::unique_ptr<uint64_t[]> own(new uint64_t[room / 2 + 1]);
    kernels.convolve_narrow(g, x, prepared.get(), to, lines * task / tasks, lines * (task + 1) / tasks,
                            reinterpret_cast<uint32_t*>(own.get()));
  });
}

// Up to so many rows, putting w's words in the order of `convolve` would cost more than the product; and up to kFewDeep where
// a row has kDeep words, so that adding up its sums at the end costs little.
constexpr int64_t kFew = 4, kFewDeep = 12, kDeep = 64;

// A product of matrices as a convolution: each row is a pixel, kRowsOfAPart of them or more a thread's part.
constexpr int64_t kRowsOfAPart = 48;
inline int64_t parts_of(int64_t rows) { return (rows + kRowsOfAPart - 1) / kRowsOfAPart; }
inline Geometry of_matrices(int64_t rows, int64_t k, int64_t words, int64_t out) {
  return {1, 1, rows, k, words, 1, 1, 1, 1, 0, 0, 1, 1, 1, rows, out};
}

// k - 2 popcount(x xor w): x (rows, words), w (out, words), y (rows, out).
inline void multiply(Pool& pool, const Kernels& kernels, const uint32_t* x, int64_t rows, const uint32_t* w, int64_t words,
                     int64_t k, int32_t* y, int64_t out) {
  if (rows > (words < kDeep ? kFew : kFewDeep)) {
    const auto work = [&](int64_t block, int64_t first, int64_t last, uint32_t* room) {
      const int64_t from = first * kRowsOfAPart, some = std::min(last * kRowsOfAPart, rows) - from;
      kernels.convolve(of_matrices(some, k, words, out), x + from * words, {w, 1, words},
                       {y + from * out, nullptr, nullptr, nullptr}, block, 0, 1, room);
    };
    const int64_t room = kernels.room(of_matrices(rows, k, words, out));
    by_blocks(pool, out, parts_of(rows), rows * out * words, kernels.blocks, room, work);
    return;
  }
  const int64_t tasks = parts(pool, out, rows * out * words);
  share(pool, tasks, [&](int64_t task) {
    kernels.dot(x, rows, w, words, k, y, out, out * task / tasks, out * (task + 1) / tasks);
  });
}

// Of floats with signs, x (rows, k), each sum along the words: the order for few rows.
inline void dot_floats(Pool& pool, const Kernels& kernels, const float* x, int64_t rows, const uint32_t* w, int64_t words,
                       int64_t k, float* y, int64_t out) {
  const int64_t tasks = parts(pool, out, rows * out * words * 8);
  share(pool, tasks, [&](int64_t task) {
    kernels.dot_floats(x, rows, w, words, k, y, out, out * task / tasks, out * (task + 1) / tasks);
  });
}

// Of floats with signs, in the order for as many rows as there are.
inline void multiply_floats(Pool& pool, const Kernels& kernels, const float* x, int64_t rows, const uint32_t* w,
                           int64_t words, int64_t k, float* y, int64_t out) {
  if (rows <= kFew) return dot_floats(pool, kernels, x, rows, w, words, k, y, out);
  const auto work = [&](int64_t block, int64_t first, int64_t last, uint32_t* room) {
    const int64_t from = first * kRowsOfAPart, some = std::min(last * kRowsOfAPart, rows) - from;
    kernels.convolve_floats(of_matrices(some, k, words, out), x + from * k, {w, 1, words}, y + from * out, block, 0, 1,
                            reinterpret_cast<float*>(room));
  };
  by_blocks(pool, out, parts_of(rows), rows * out * words * 8, 1, kFloatRoom, work);
}

// Words of the signs of x (rows, channels), or of x normalized (kernels.h).
inline void pack_signs(Pool& pool, const Kernels& kernels, const float* x, const float* coefficients, int64_t channels,
                 int64_t rows, uint32_t* words) {
  const int64_t n_words = (channels + 31) / 32, tasks = parts(pool, rows, rows * channels / 4);
  share(pool, tasks, [&](int64_t task) {
    const int64_t first = rows * task / tasks;
    kernels.pack(x, coefficients, channels, words + first * n_words, first, rows * (task + 1) / tasks);
  });
}

// Convolutions of floats.
using Room = std::unique_ptr<float[]>;
inline Room room_for(int64_t floats) { return Room(new float[floats]); }

inline int64_t products_of_a_line(const Sliding& s) { return s.columns * s.out * s.channels * (s.size_h * s.size_w + 1); }

// packed: the weights as `kernels.pack` lays them out.
inline void slide(Pool& pool, const FloatKernels& kernels, const Sliding& s, int64_t images, const float* x,
                  const float* packed, float* y) {
  const int64_t lines = s.columns * s.out == 0 ? 0 : images * s.rows;
  if (lines == 0) return;
  const int64_t tasks = parts(pool, lines, lines * products_of_a_line(s) / 16);
  share(pool, tasks, [&](int64_t task) {
    const Room room = room_for(kernels.slide_room(s));
    kernels.slide(s, x, packed, y, lines * task / tasks, lines * (task + 1) / tasks, room.get());
  });
}

}  // namespace bnn
