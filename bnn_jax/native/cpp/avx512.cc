// AVX-512 with VPOPCNTDQ: the processor counts the bits of 16 words at once.
#include <immintrin.h>

#include "kernels.h"

namespace bnn {
namespace {

struct Lanes {
  using Vector = __m512;
  static constexpr int64_t kVector = 16;
  static constexpr int kWide = 3, kSums = 24;
  static Vector load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Vector v) { _mm512_storeu_ps(to, v); }
  static Vector all(float x) { return _mm512_set1_ps(x); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static constexpr int kRows = 2;
  static constexpr int64_t kWords = 1 << 20;
  struct Counts {
    __m512i of[2];
  };
  static void add(Counts& counts, const uint32_t* w, uint32_t x) {
    const __m512i all = _mm512_set1_epi32(static_cast<int32_t>(x));
    for (int half = 0; half < 2; ++half) {
      const __m512i differ = _mm512_xor_si512(_mm512_loadu_si512(w + 16 * half), all);
      counts.of[half] = _mm512_add_epi32(counts.of[half], _mm512_popcnt_epi32(differ));
    }
  }
  static void gather(Counts&) {}
  static void integers(const Counts& counts, int32_t k, int32_t* y) {
    for (int half = 0; half < 2; ++half) {
      const __m512i twice = _mm512_slli_epi32(counts.of[half], 1);
      _mm512_storeu_si512(y + 16 * half, _mm512_sub_epi32(_mm512_set1_epi32(k), twice));
    }
  }
  static int64_t differing(const uint32_t* x, const uint32_t* w, int64_t n) {
    __m512i sums = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += 16) {
      const __mmask16 there = static_cast<__mmask16>(n - i >= 16 ? 0xffff : (1 << (n - i)) - 1);
      const __m512i differ =
          _mm512_xor_si512(_mm512_maskz_loadu_epi32(there, x + i), _mm512_maskz_loadu_epi32(there, w + i));
      sums = _mm512_add_epi64(sums, _mm512_popcnt_epi64(differ));
    }
    alignas(64) int64_t parts[8];
    _mm512_store_si512(parts, sums);
    int64_t total = 0;
    for (const int64_t part : parts) total += part;
    return total;
  }
  static constexpr int kPixels = 6;
  template <int P>
  static void multiply_add(const float* x, int64_t step, int64_t n, const float* tile, float* sums) {
    __m512 part[P][2] = {};
    for (int64_t i = 0; i < n; ++i)
      for (int p = 0; p < P; ++p) {
        const __m512 all = _mm512_set1_ps(x[p * step + i]);
        for (int v = 0; v < 2; ++v)
          part[p][v] = _mm512_fmadd_ps(all, _mm512_loadu_ps(tile + i * kBlock + 16 * v), part[p][v]);
      }
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < 2; ++v) {
        float* sum = sums + p * kBlock + 16 * v;
        _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_loadu_ps(sum), part[p][v]));
      }
  }
  static float signed_sum(const float* x, const uint32_t* w, int64_t n) {
    const __m512i minus = _mm512_set1_epi32(INT32_MIN);
    __m512 sums[2] = {};
    for (int64_t k = 0; k < n; ++k, x += 32)
      for (int v = 0; v < 2; ++v) {
        const __m512i values = _mm512_loadu_si512(x + 16 * v);
        const __mmask16 flips = static_cast<__mmask16>(w[k] >> (16 * v));
        sums[v] = _mm512_add_ps(sums[v], _mm512_castsi512_ps(_mm512_mask_xor_epi32(values, flips, values, minus)));
      }
    alignas(64) float parts[16];
    _mm512_store_ps(parts, _mm512_add_ps(sums[0], sums[1]));
    for (int width = 8; width > 0; width /= 2)
      for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
    return parts[0];
  }
  static uint32_t below(const int32_t* y, const int32_t* limits) {
    const uint32_t lower = _mm512_cmplt_epi32_mask(_mm512_loadu_si512(y), _mm512_loadu_si512(limits));
    const uint32_t upper = _mm512_cmplt_epi32_mask(_mm512_loadu_si512(y + 16), _mm512_loadu_si512(limits + 16));
    return lower | upper << 16;
  }
  static uint32_t signs(__m512 x) { return _mm512_cmp_ps_mask(x, _mm512_set1_ps(-__FLT_MIN__), _CMP_NGT_UQ); }
  static uint32_t signs(const float* x) {
    return signs(_mm512_loadu_ps(x)) | signs(_mm512_loadu_ps(x + 16)) << 16;
  }
  static uint32_t signs(const float* x, const float* scale, const float* shift) {
    uint32_t bits = 0;
    for (int half = 0; half < 2; ++half) {
      const __m512 s = _mm512_loadu_ps(scale + 16 * half), b = _mm512_loadu_ps(shift + 16 * half);
      const __m512 y = _mm512_mul_ps(_mm512_add_ps(_mm512_loadu_ps(x + 16 * half), b), s);
      const __mmask16 constant = _mm512_cmp_ps_mask(s, _mm512_setzero_ps(), _CMP_EQ_OQ);
      bits |= signs(_mm512_mask_blend_ps(constant, y, b)) << (16 * half);
    }
    return bits;
  }
};

}  // namespace
}  // namespace bnn

#include "counting.h"

namespace bnn {
const Kernels kAvx512 = kKernels;
}
