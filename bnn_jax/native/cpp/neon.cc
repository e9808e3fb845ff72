// NEON: the processor counts the bits of 16 bytes at once, and they are added up byte by byte.
#include <arm_neon.h>

#include "kernels.h"

namespace bnn {
namespace {

struct Lanes {
  using Vector = float32x4_t;
  static constexpr int64_t kVector = 4;
  static constexpr int kWide = 3, kSums = 24;
  static Vector load(const float* from) { return vld1q_f32(from); }
  static void store(float* to, Vector v) { vst1q_f32(to, v); }
  static Vector all(float x) { return vdupq_n_f32(x); }
  static Vector fma(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
  static constexpr int kRows = 2;
  static constexpr int64_t kWords = 31;  // A byte holds 31 times 8 bits.
  struct Counts {
    uint8x16_t bytes[8];
    uint32x4_t totals[8];
  };
  static uint8x16_t bits_of_bytes(uint32x4_t v) { return vcntq_u8(vreinterpretq_u8_u32(v)); }
  static void add(Counts& counts, const uint32_t* w, uint32_t x) {
    for (int part = 0; part < 8; ++part)
      counts.bytes[part] = vaddq_u8(counts.bytes[part], bits_of_bytes(veorq_u32(vld1q_u32(w + 4 * part), vdupq_n_u32(x))));
  }
  static void gather(Counts& counts) {
    for (int part = 0; part < 8; ++part) {
      counts.totals[part] = vaddq_u32(counts.totals[part], vpaddlq_u16(vpaddlq_u8(counts.bytes[part])));
      counts.bytes[part] = vdupq_n_u8(0);
    }
  }
  static void integers(Counts& counts, int32_t k, int32_t* y) {
    gather(counts);
    for (int part = 0; part < 8; ++part)
      vst1q_s32(y + 4 * part, vsubq_s32(vdupq_n_s32(k), vreinterpretq_s32_u32(vshlq_n_u32(counts.totals[part], 1))));
  }
  static int64_t differing(const uint32_t* x, const uint32_t* w, int64_t n) {
    uint64x2_t sums = vdupq_n_u64(0);
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
      sums = vpadalq_u32(sums, vpaddlq_u16(vpaddlq_u8(bits_of_bytes(veorq_u32(vld1q_u32(x + i), vld1q_u32(w + i))))));
    int64_t total = static_cast<int64_t>(vaddvq_u64(sums));
    for (; i < n; ++i) total += __builtin_popcount(x[i] ^ w[i]);
    return total;
  }
  static constexpr int kPixels = 2;
  template <int P>
  static void multiply_add(const float* x, int64_t step, int64_t n, const float* tile, float* sums) {
    float32x4_t part[P][8] = {};
    for (int64_t i = 0; i < n; ++i)
      for (int p = 0; p < P; ++p)
        for (int v = 0; v < 8; ++v)
          part[p][v] = vfmaq_n_f32(part[p][v], vld1q_f32(tile + i * kBlock + 4 * v), x[p * step + i]);
    for (int p = 0; p < P; ++p)
      for (int v = 0; v < 8; ++v) {
        float* sum = sums + p * kBlock + 4 * v;
        vst1q_f32(sum, vaddq_f32(vld1q_f32(sum), part[p][v]));
      }
  }
  static float signed_sum(const float* x, const uint32_t* w, int64_t n) {
    float32x4_t sums[8] = {};
    for (int64_t k = 0; k < n; ++k, x += 32)
      for (int v = 0; v < 8; ++v) {
        const int32_t top = 31 - 4 * v;  // Each lane shifts its own bit to the place of the sign.
        const int32x4_t shifts = {top, top - 1, top - 2, top - 3};
        const uint32x4_t flips = vandq_u32(vshlq_u32(vdupq_n_u32(w[k]), shifts), vdupq_n_u32(0x80000000u));
        const uint32x4_t flipped = veorq_u32(vreinterpretq_u32_f32(vld1q_f32(x + 4 * v)), flips);
        sums[v] = vaddq_f32(sums[v], vreinterpretq_f32_u32(flipped));
      }
    for (int width = 4; width > 0; width /= 2)
      for (int v = 0; v < width; ++v) sums[v] = vaddq_f32(sums[v], sums[v + width]);
    return vaddvq_f32(sums[0]);
  }
  static uint32_t below(const int32_t* y, const int32_t* limits) {
    static const uint32_t kBits[4] = {1, 2, 4, 8};
    uint32_t bits = 0;
    for (int part = 0; part < 8; ++part) {
      const uint32x4_t less = vcltq_s32(vld1q_s32(y + 4 * part), vld1q_s32(limits + 4 * part));
      bits |= vaddvq_u32(vandq_u32(less, vld1q_u32(kBits))) << (4 * part);
    }
    return bits;
  }
  static uint32_t signs(float32x4_t x) {
    static const uint32_t kBits[4] = {1, 2, 4, 8};
    return vaddvq_u32(vbicq_u32(vld1q_u32(kBits), vcgtq_f32(x, vdupq_n_f32(-__FLT_MIN__))));
  }
  static uint32_t signs(const float* x) {
    uint32_t bits = 0;
    for (int part = 0; part < 8; ++part) bits |= signs(vld1q_f32(x + 4 * part)) << (4 * part);
    return bits;
  }
  static uint32_t signs(const float* x, const float* scale, const float* shift) {
    uint32_t bits = 0;
    for (int part = 0; part < 8; ++part) {
      const float32x4_t s = vld1q_f32(scale + 4 * part), b = vld1q_f32(shift + 4 * part);
      const float32x4_t y = vmulq_f32(vaddq_f32(vld1q_f32(x + 4 * part), b), s);
      bits |= signs(vbslq_f32(vceqq_f32(s, vdupq_n_f32(0)), b, y)) << (4 * part);
    }
    return bits;
  }
};

}  // namespace
}  // namespace bnn

#include "counting.h"

namespace bnn {
const Kernels kNeon = kKernels;
}
