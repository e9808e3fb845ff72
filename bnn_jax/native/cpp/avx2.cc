// AVX2 and FMA.
#include <immintrin.h>

#include "kernels.h"

namespace bnn {
namespace {

struct Lanes {
  using Vector = __m256;
  static constexpr int64_t kVector = 8;
  static constexpr int kWide = 3, kSums = 12;
  static Vector load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, Vector v) { _mm256_storeu_ps(to, v); }
  static Vector all(float x) { return _mm256_set1_ps(x); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static __m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  // Of each byte, by two look-ups (W. Mula).
  static __m256i bits_of_bytes(__m256i v) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                           0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i lower = _mm256_shuffle_epi8(table, _mm256_and_si256(v, low));
    return _mm256_add_epi8(lower, _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), low)));
  }
  static int64_t differing(const uint32_t* x, const uint32_t* w, int64_t n) {
    __m256i sums = _mm256_setzero_si256();
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
      const __m256i bytes = bits_of_bytes(_mm256_xor_si256(load(x + i), load(w + i)));
      sums = _mm256_add_epi64(sums, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
    }
    alignas(32) int64_t parts[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(parts), sums);
    int64_t total = parts[0] + parts[1] + parts[2] + parts[3];
    for (; i < n; ++i) total += __builtin_popcount(x[i] ^ w[i]);
    return total;
  }
  static constexpr int kPixels = 3;
  template <int P>
  static void multiply_add(const float* x, int64_t step, int64_t n, const float* tile, float* sums) {
    __m256 part[P][4] = {};
    for (int64_t i = 0; i < n; ++i)
      for (int p = 0; p < P; ++p) {
        const __m256 all = _mm256_broadcast_ss(x + p * step + i);
        for (int v = 0; v < 4; ++v)
          part[p][v] = _mm256_fmadd_ps(all, _mm256_loadu_ps(tile + i * kBlock + 8 * v), part[p][v]);
      }
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < 4; ++v) {
        float* sum = sums + p * kBlock + 8 * v;
        _mm256_storeu_ps(sum, _mm256_add_ps(_mm256_loadu_ps(sum), part[p][v]));
      }
  }
  static float signed_sum(const float* x, const uint32_t* w, int64_t n) {
    const __m256i minus = _mm256_set1_epi32(INT32_MIN);
    __m256 sums[4] = {};
    for (int64_t k = 0; k < n; ++k, x += 32) {
      const __m256i word = _mm256_set1_epi32(static_cast<int32_t>(w[k]));
      for (int v = 0; v < 4; ++v) {
        const int top = 31 - 8 * v;  // Each lane shifts its own bit to the place of the sign.
        const __m256i shifts = _mm256_setr_epi32(top, top - 1, top - 2, top - 3, top - 4, top - 5, top - 6, top - 7);
        const __m256 flips = _mm256_castsi256_ps(_mm256_and_si256(_mm256_sllv_epi32(word, shifts), minus));
        sums[v] = _mm256_add_ps(sums[v], _mm256_xor_ps(_mm256_loadu_ps(x + 8 * v), flips));
      }
    }
    alignas(32) float parts[8];
    _mm256_store_ps(parts, _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
    return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
  }
  static uint32_t below(const int32_t* y, const int32_t* limits) {
    uint32_t bits = 0;
    for (int part = 0; part < 4; ++part) {
      const __m256i less = _mm256_cmpgt_epi32(load(limits + 8 * part), load(y + 8 * part));
      bits |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(less))) << (8 * part);
    }
    return bits;
  }
  static uint32_t signs(__m256 x) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_set1_ps(-__FLT_MIN__), _CMP_NGT_UQ)));
  }
  static uint32_t signs(const float* x) {
    uint32_t bits = 0;
    for (int part = 0; part < 4; ++part) bits |= signs(_mm256_loadu_ps(x + 8 * part)) << (8 * part);
    return bits;
  }
  static uint32_t signs(const float* x, const float* scale, const float* shift) {
    uint32_t bits = 0;
    for (int part = 0; part < 4; ++part) {
      const __m256 s = _mm256_loadu_ps(scale + 8 * part), b = _mm256_loadu_ps(shift + 8 * part);
      const __m256 y = _mm256_mul_ps(_mm256_add_ps(_mm256_loadu_ps(x + 8 * part), b), s);
      bits |= signs(_mm256_blendv_ps(y, b, _mm256_cmp_ps(s, _mm256_setzero_ps(), _CMP_EQ_OQ))) << (8 * part);
    }
    return bits;
  }
};

}  // namespace
}  // namespace bnn

#include "lookup.h"

namespace bnn {
const Kernels kAvx2 = kKernels;
}
