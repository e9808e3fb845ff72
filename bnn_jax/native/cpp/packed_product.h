// A product of bits with alpha, K, bias and affine quantizers.
#pragma once

#include <cmath>

#include "operation.h"

namespace bnn {
namespace {

// Binary weights, binary input.
class PackedProduct : public Layer {
 public:
  PackedProduct(File& file, Node& node) : operation_(Operation::of(node)) {
    use_k_ = node.boolean("use_k");
    words_ = operation_.words(file, node);
    scale_ = floats_of(file, node, "scale", {operation_.out}, false);
    bias_ = floats_of(file, node, "bias", {operation_.out}, false);
    const float* shift = floats_of(file, node, "shift", {operation_.in}, false, false);
    offset_ = floats_of(file, node, "offset", {operation_.out}, false, false);
    levels_ = floats_of(file, node, "levels", {2}, false, false);
    if (shift != nullptr) {
      // The coefficients of a normalization that only adds.
      shift_.assign(static_cast<size_t>(operation_.in), 1.f);
      shift_.insert(shift_.end(), shift, shift + operation_.in);
    }
    if (operation_.groups > 1 && use_k_) throw Refused(node.what("use_k") + " is true, expected false in groups: K is the mean over all channels");
    if (operation_.groups > 1 && affine()) throw Refused(node.what("levels") + " or offset is given, expected neither in groups");
    if (operation_.narrow()) {
      const int64_t row = words_for(operation_.out);
      if (operation_.along_filters) {
        along_ = words_;
      } else {
        turned_.assign(static_cast<size_t>(operation_.window.taps() * operation_.each() * row), 0);
        for (int64_t tap = 0; tap < operation_.window.taps(); ++tap)
          for (int64_t c = 0; c < operation_.each(); ++c)
            for (int64_t f = 0; f < operation_.out; ++f)
              turned_[static_cast<size_t>((tap * operation_.each() + c) * row + f / 32)] |= static_cast<uint32_t>(operation_.negative(words_, tap, c, f)) << (f % 32);
        along_ = turned_.data();
      }
    }
  }

  Shape shape(const Shape& x, Budget& budget) const override { return operation_.shape(x, budget); }
  bool multiplies_bits() const override { return true; }
  bool reads_only_signs() const override { return !use_k_ && shift_.empty(); }

  std::optional<IntegerForm> integer_form() const override {
    // K needs the map itself, and an affine product adds another sum to each pixel.
    if (use_k_ || affine()) return std::nullopt;
    return IntegerForm{operation_.terms(), operation_.out, scale_, bias_};
  }

  Value run(const Context& context, Value x) const override {
    const Shape to = operation_.shape(x.shape);
    Memory::Block k;
    if (use_k_) k = input_scale(context, x, to);
    Value signs = signs_of_input(context, x);
    x.block = Memory::Block();  // Nothing but the signs is read from here on.
    Value y = made(context, signs.images, to, false);
    if (affine()) {
      sums(context, signs, y);
    } else {
      multiply_bits(context, operation_, words_, along_, signs.words(), signs.images, signs.shape, to, {y.block.as<int32_t>(), nullptr, nullptr, nullptr});
    }
    const int64_t channels = to.channels;
    float* numbers = y.block.as<float>();
    in_parts(context, y.rows(), y.count() / 4, [&](int64_t first, int64_t last) {
      float* at = numbers + first * channels;
      const float* of_pixels = use_k_ ? k.as<float>() + first : nullptr;
      if (affine())
        context.kernels.maps.of_floats(at, nullptr, of_pixels, bias_, at, channels, last - first);
      else
        context.kernels.maps.of_integers(reinterpret_cast<const int32_t*>(at), scale_, of_pixels, bias_, at, channels, last - first);
    });
    return y;
  }

  Value compared(const Context& context, Value x, const int32_t* thresholds, const uint32_t* flip) const override {
    const Value signs = signs_of_input(context, x);
    Value y = made(context, signs.images, operation_.shape(signs.shape), true);
    multiply_bits(context, operation_, words_, along_, signs.words(), signs.images, signs.shape, y.shape, {nullptr, thresholds, flip, y.block.as<uint32_t>()});
    return y;
  }

 private:
  bool affine() const { return offset_ != nullptr || levels_ != nullptr; }

  Value signs_of_input(const Context& context, Value& x) const {
    if (x.signs) return {x.images, x.shape, true, x.data, std::move(x.block)};
    Value signs = made(context, x.images, x.shape, true);
    pack_signs(context.pool, context.kernels, x.floats(), shift_.empty() ? nullptr : shift_.data(), x.shape.channels, x.rows(), signs.block.as<uint32_t>());
    return signs;
  }

  // K, a number a pixel of the result.
  Memory::Block input_scale(const Context& context, const Value& x, const Shape& to) const {
    const int64_t channels = x.shape.channels;
    Memory::Block magnitudes = context.memory.numbers(x.rows());
    in_parts(context, x.rows(), x.count() / 4, [&](int64_t first, int64_t last) {
      std::vector<float> all(static_cast<size_t>(channels));
      for (int64_t pixel = first; pixel < last; ++pixel) {
        for (int64_t c = 0; c < channels; ++c) all[static_cast<size_t>(c)] = std::fabs(x.floats()[pixel * channels + c]);
        ordered_mean(all.data(), channels, 1, magnitudes.as<float>() + pixel);
      }
    });
    Memory::Block k = context.memory.numbers(x.images * to.pixels());
    if (operation_.dense) {
      // The mean over a window of one tap: times 1.
      memcpy(k.as<float>(), magnitudes.as<float>(), static_cast<size_t>(x.rows()) * sizeof(float));
      return k;
    }
    Shape of = x.shape, means = to;
    of.channels = means.channels = 1;
    mean_of_windows(context, operation_.window, magnitudes.as<float>(), x.images, of, means, k.as<float>());
    return k;
  }

  // a (c products + d weight sums) + b (c input sums + d counts), a, b, c, d being scale, offset and levels.
  void sums(const Context& context, const Value& x, Value& y) const {
    const int64_t out = operation_.out, pixels = y.shape.pixels();
    const auto multiply = [&](const Operation& operation, const uint32_t* words, const uint32_t* signs, int64_t images, int32_t* to) {
      Shape shape = y.shape;
      shape.channels = operation.out;
      multiply_bits(context, operation, words, nullptr, signs, images, x.shape, shape, {to, nullptr, nullptr, nullptr});
    };
    // A bit that is not set means +1.
    const int64_t ones = x.shape.pixels() * words_for(x.shape.channels);
    const Memory::Block image = context.memory.numbers(ones);
    memset(image.as<uint32_t>(), 0, static_cast<size_t>(ones) * 4);
    const std::vector<uint32_t> filter(static_cast<size_t>(operation_.window.taps() * words_for(operation_.in)));
    Operation one = operation_;
    one.out = 1;
    const Memory::Block weight_sums = context.memory.numbers(pixels * out), input_sums = context.memory.numbers(x.images * pixels);
    const Memory::Block counts = context.memory.numbers(pixels);
    int32_t* products = y.block.as<int32_t>();
    multiply(operation_, words_, x.words(), x.images, products);
    multiply(operation_, words_, image.as<uint32_t>(), 1, weight_sums.as<int32_t>());
    multiply(one, filter.data(), x.words(), x.images, input_sums.as<int32_t>());
    multiply(one, filter.data(), image.as<uint32_t>(), 1, counts.as<int32_t>());
    const auto level = [this](int32_t signs, int32_t constant) {
      if (levels_ == nullptr) return static_cast<float>(signs);
      const float a = levels_[0] * static_cast<float>(signs), b = levels_[1] * static_cast<float>(constant);
      return a + b;
    };
    in_parts(context, y.rows(), y.count(), [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        const float input = level(input_sums.as<int32_t>()[p], counts.as<int32_t>()[p % pixels]);
        for (int64_t f = 0; f < out; ++f) {
          int32_t product;
          memcpy(&product, products + p * out + f, sizeof(product));
          float number = level(product, weight_sums.as<int32_t>()[p % pixels * out + f]);
          if (scale_ != nullptr) number = number * scale_[f];
          if (offset_ != nullptr) {
            const float more = input * offset_[f];
            number = number + more;
          }
          memcpy(products + p * out + f, &number, sizeof(number));
        }
      }
    });
  }

  Operation operation_;
  bool use_k_;
  const uint32_t *words_, *along_ = nullptr;
  std::vector<uint32_t> turned_;
  const float *scale_, *bias_, *offset_, *levels_;
  std::vector<float> shift_;
};

}  // namespace
}  // namespace bnn
