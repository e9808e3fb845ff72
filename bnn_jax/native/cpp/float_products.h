// Products of real inputs, with real weights and with signs.
#pragma once

#include "operation.h"

namespace bnn {
namespace {

// A product of floats with floats: sums tap by tap, channel by channel, each product added with one rounding where the
// processor can (docs/format.md).
class FloatWeights {
 public:
  // weight(tap, channel of a group, filter).
  void lay_out(const Kernels& kernels, const Operation& operation, const std::function<float(int64_t, int64_t, int64_t)>& weight) {
    sliding_ = !operation.dense && operation.groups == 1 && !operation.window.dilated();
    const Sliding s = sliding(operation, {}, {});
    each_ = kernels.floats.packed_floats(s);
    packed_.resize(static_cast<size_t>(operation.groups * each_));
    const int64_t out = operation.out / operation.groups;
    std::vector<float> plain(static_cast<size_t>(operation.terms() * out));
    for (int64_t group = 0; group < operation.groups; ++group) {
      float* at = plain.data();
      for (int64_t tap = 0; tap < operation.window.taps(); ++tap)
        for (int64_t c = 0; c < operation.each(); ++c)
          for (int64_t f = 0; f < out; ++f) *at++ = weight(tap, c, group * out + f);
      kernels.floats.pack(s, {plain.data(), s.size_w * s.channels * out, s.channels * out, out, 1}, packed_.data() + group * each_);
    }
  }

  void multiply(const Context& context, const Operation& operation, const float* x, int64_t images, const Shape& of,
                const Shape& shape, float* y) const {
    const Kernels& kernels = context.kernels;
    if (operation.dense) {
      const int64_t rows = images * of.pixels();
      return slide(context.pool, kernels.floats, matrices(rows, operation.in, operation.out, operation.out), 1, x, packed_.data(), y);
    }
    const float value = static_cast<float>(operation.pad_value);
    std::vector<uint32_t> outside(static_cast<size_t>(of.channels));
    for (uint32_t& number : outside) memcpy(&number, &value, sizeof(number));
    const Padded padded(context, operation, reinterpret_cast<const uint32_t*>(x), images, of, of.channels, outside);
    const float* from = reinterpret_cast<const float*>(padded.words);
    if (sliding_) {
      Sliding s = sliding(operation, padded.shape, shape);
      s.top = padded.top, s.left = padded.left;
      return slide(context.pool, kernels.floats, s, images, from, packed_.data(), y);
    }
    // Dilated or in groups: each window's numbers side by side, a line of results at a time, are the rows of a matrix.
    const int64_t out = operation.out / operation.groups, terms = operation.terms(), each = operation.each();
    in_parts(context, images * shape.height, images * shape.pixels() * terms * operation.out / 16, [&](int64_t first, int64_t last) {
      std::vector<float> windows(static_cast<size_t>(shape.width * terms));
      const Window& window = operation.window;
      for (int64_t line = first; line < last; ++line)
        for (int64_t group = 0; group < operation.groups; ++group) {
          std::fill(windows.begin(), windows.end(), 0.f);
          const float* image = from + line / shape.height * padded.shape.numbers() + group * each;
          window.inside(0, line % shape.height, padded.shape.height, padded.top, [&](int64_t i, int64_t row) {
            for (int64_t b = 0; b < shape.width; ++b)
              window.inside(1, b, padded.shape.width, padded.left, [&](int64_t j, int64_t column) {
                memcpy(windows.data() + b * terms + (i * window.size[1] + j) * each, image + (row * padded.shape.width + column) * of.channels,
                       static_cast<size_t>(each) * sizeof(float));
              });
          });
          const Sliding s = matrices(shape.width, terms, out, operation.out);
          kernels.floats.slide(s, windows.data(), packed_.data() + group * each_, y + line * shape.width * operation.out + group * out, 0, 1, nullptr);
        }
    });
  }

 private:
  static Sliding matrices(int64_t rows, int64_t terms, int64_t out, int64_t y_column) {
    return {1, rows, terms, 1, 1, 1, 1, 0, 0, 1, rows, out, 0, 0, y_column};
  }

  Sliding sliding(const Operation& operation, const Shape& x, const Shape& y) const {
    if (!sliding_) return matrices(y.width, operation.terms(), operation.out / operation.groups, operation.out);
    const Window& w = operation.window;
    return {x.height, x.width, operation.in, w.size[0], w.size[1], w.strides[0], w.strides[1], 0, 0,
            y.height, y.width, operation.out, y.numbers(), y.width * operation.out, operation.out};
  }

  bool sliding_ = false;
  int64_t each_ = 0;
  std::vector<float> packed_;
};

// y = x scale + bias, in place.
void add_bias(const Context& context, const float* scale, const float* bias, Value& y) {
  if (scale == nullptr && bias == nullptr) return;
  const int64_t channels = y.shape.channels;
  float* numbers = y.block.as<float>();
  in_parts(context, y.rows(), y.count() / 4, [&](int64_t first, int64_t last) {
    float* at = numbers + first * channels;
    context.kernels.maps.of_floats(at, scale, nullptr, bias, at, channels, last - first);
  });
}

class FloatProduct : public Layer {
 public:
  FloatProduct(File& file, Node& node) : operation_(Operation::of(node)) {
    if (operation_.along_filters) throw Refused(node.what("product") + ": filters is given, expected null: its weights are no words");
    kernel_ = floats_of(file, node, "kernel", operation_.kernel_shape(), true);
    bias_ = floats_of(file, node, "bias", {operation_.out}, false);
  }

  Shape shape(const Shape& x, Budget& budget) const override { return operation_.shape(x, budget); }

  void complete(const Kernels& kernels, bool) override {
    weights_.lay_out(kernels, operation_, [this](int64_t tap, int64_t c, int64_t f) { return kernel_[(tap * operation_.each() + c) * operation_.out + f]; });
  }

  Value run(const Context& context, Value x) const override {
    Value y = made(context, x.images, operation_.shape(x.shape), false);
    weights_.multiply(context, operation_, x.floats(), x.images, x.shape, y.shape, y.block.as<float>());
    add_bias(context, nullptr, bias_, y);
    return y;
  }

 private:
  Operation operation_;
  const float *kernel_, *bias_;
  FloatWeights weights_;
};

// Binary weights, real input.
class UnpackedProduct : public Layer {
 public:
  UnpackedProduct(File& file, Node& node) : operation_(Operation::of(node)) {
    words_ = operation_.words(file, node);
    scale_ = floats_of(file, node, "scale", {operation_.out}, false);
    bias_ = floats_of(file, node, "bias", {operation_.out}, false);
  }

  Shape shape(const Shape& x, Budget& budget) const override { return operation_.shape(x, budget); }

  void complete(const Kernels& kernels, bool in_order) override {
    unpacked_ = in_order || operation_.groups > 1;
    if (unpacked_)
      weights_.lay_out(kernels, operation_, [this](int64_t tap, int64_t c, int64_t f) { return operation_.negative(words_, tap, c, f) ? -1.f : 1.f; });
  }

  Value run(const Context& context, Value x) const override {
    Value y = made(context, x.images, operation_.shape(x.shape), false);
    float* to = y.block.as<float>();
    if (unpacked_) {
      weights_.multiply(context, operation_, x.floats(), x.images, x.shape, y.shape, to);
    } else if (operation_.dense) {
      // One order for any number of rows, so that an image's logits do not depend on its batch.
      dot_floats(context.pool, context.kernels, x.floats(), x.rows(), words_, words_for(operation_.in), operation_.in, to, operation_.out);
    } else {
      const float value = static_cast<float>(operation_.pad_value);
      std::vector<uint32_t> outside(static_cast<size_t>(operation_.in));
      for (uint32_t& number : outside) memcpy(&number, &value, sizeof(number));
      const Padded padded(context, operation_, x.words(), x.images, x.shape, operation_.in, outside);
      const Geometry g = operation_.geometry(x.images, padded.shape, y.shape, padded.top, padded.left);
      convolve(context.pool, context.kernels, g, reinterpret_cast<const float*>(padded.words), {words_, operation_.out, 1}, to);
    }
    add_bias(context, scale_, bias_, y);
    return y;
  }

 private:
  Operation operation_;
  const uint32_t* words_;
  const float *scale_, *bias_;
  bool unpacked_ = false;
  FloatWeights weights_;
};

}  // namespace
}  // namespace bnn
