// NEON: the processor counts the bits of 16 bytes at once, and they are added up byte by byte.
#include <arm_neon.h>

#include "kernels.h"

namespace bnn {
namespace {

struct Lanes {
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
  static uint32_t below(const int32_t* y, const int32_t* limits) {
    static const uint32_t kBits[4] = {1, 2, 4, 8};
    uint32_t bits = 0;
    for (int part = 0; part < 8; ++part) {
      const uint32x4_t less = vcltq_s32(vld1q_s32(y + 4 * part), vld1q_s32(limits + 4 * part));
      bits |= vaddvq_u32(vandq_u32(less, vld1q_u32(kBits))) << (4 * part);
    }
    return bits;
  }
  static uint32_t signs(const float* x) {
    static const uint32_t kBits[4] = {1, 2, 4, 8};
    uint32_t bits = 0;
    for (int part = 0; part < 8; ++part) {
      const uint32x4_t positive = vcgtq_f32(vld1q_f32(x + 4 * part), vdupq_n_f32(-__FLT_MIN__));
      bits |= vaddvq_u32(vbicq_u32(vld1q_u32(kBits), positive)) << (4 * part);
    }
    return bits;
  }
};

}  // namespace
}  // namespace bnn

#include "tiles.h"

namespace bnn {
const Kernels kNeon = kKernels;
}
