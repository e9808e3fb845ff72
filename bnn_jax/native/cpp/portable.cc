// Plain C++, for a processor that no other file is for.
#include "kernels.h"

namespace bnn {
namespace {

struct Lanes {
  using Vector = float __attribute__((vector_size(16)));
  static constexpr int64_t kVector = 4;
  static constexpr int kWide = 3, kSums = 12;
  static Vector load(const float* from) {
    Vector v;
    __builtin_memcpy(&v, from, sizeof(v));
    return v;
  }
  static void store(float* to, Vector v) { __builtin_memcpy(to, &v, sizeof(v)); }
  static Vector all(float x) { return Vector{x, x, x, x}; }
  static Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }
  static constexpr int kRows = 1;
  static constexpr int64_t kWords = 1 << 20;
  struct Counts {
    int32_t of[kBlock];
  };
  static void add(Counts& counts, const uint32_t* w, uint32_t x) {
    for (int f = 0; f < kBlock; ++f) counts.of[f] += __builtin_popcount(w[f] ^ x);
  }
  static void gather(Counts&) {}
  static void integers(const Counts& counts, int32_t k, int32_t* y) {
    for (int f = 0; f < kBlock; ++f) y[f] = k - 2 * counts.of[f];
  }
  static int64_t differing(const uint32_t* x, const uint32_t* w, int64_t n) {
    int64_t total = 0;
    for (int64_t i = 0; i < n; ++i) total += __builtin_popcount(x[i] ^ w[i]);
    return total;
  }
  static constexpr int kPixels = 1;
  template <int P>
  static void multiply_add(const float* x, int64_t, int64_t n, const float* tile, float* sums) {
    float part[kBlock] = {};
    for (int64_t i = 0; i < n; ++i)
      for (int f = 0; f < kBlock; ++f) part[f] += x[i] * tile[i * kBlock + f];
    for (int f = 0; f < kBlock; ++f) sums[f] += part[f];
  }
  static float signed_sum(const float* x, const uint32_t* w, int64_t n) {
    float total = 0;
    for (int64_t k = 0; k < n; ++k, x += 32) {
      float part = 0;
      for (int i = 0; i < 32; ++i) part += w[k] >> i & 1 ? -x[i] : x[i];
      total += part;
    }
    return total;
  }
  static uint32_t below(const int32_t* y, const int32_t* limits) {
    uint32_t bits = 0;
    for (int f = 0; f < kBlock; ++f) bits |= static_cast<uint32_t>(y[f] < limits[f]) << f;
    return bits;
  }
  static uint32_t signs(const float* x) {
    uint32_t bits = 0;
    for (int i = 0; i < 32; ++i) bits |= static_cast<uint32_t>(!(x[i] > -__FLT_MIN__)) << i;
    return bits;
  }
  static uint32_t signs(const float* x, const float* scale, const float* shift) {
    float y[32];
    for (int i = 0; i < 32; ++i) y[i] = scale[i] == 0 ? shift[i] : (x[i] + shift[i]) * scale[i];
    return signs(y);
  }
};

}  // namespace
}  // namespace bnn

#include "counting.h"

namespace bnn {
const Kernels kPortable = kKernels;
}
