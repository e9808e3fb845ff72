// Layers beside products: activations, normalization, pooling, flattening, padding of channels.
#pragma once

#include <float.h>
#include <limits>

#include "windows.h"

namespace bnn {
namespace {

// A layer that changes every number for itself.
class Pointwise : public Layer {
 public:
  Shape shape(const Shape& x, Budget&) const override { return x; }

  Value run(const Context& context, Value x) const override {
    const float* from = x.floats();
    Value y = in_place_of(context, x);
    float* to = y.block.as<float>();
    const int64_t channels = y.shape.channels;
    in_parts(context, y.rows(), y.count() / 4, [&](int64_t first, int64_t last) {
      apply(context.kernels, from + first * channels, to + first * channels, channels, last - first);
    });
    return y;
  }

  std::vector<float> direction(int64_t channels) const override { return std::vector<float>(static_cast<size_t>(channels), 1.f); }
  void pointwise(const Kernels& kernels, float* x, int64_t channels) const override { apply(kernels, x, x, channels, 1); }

 protected:
  virtual void apply(const Kernels& kernels, const float* x, float* y, int64_t channels, int64_t pixels) const = 0;
};

class Relu : public Pointwise {
  void apply(const Kernels& kernels, const float* x, float* y, int64_t channels, int64_t pixels) const override {
    kernels.maps.relu(x, y, channels * pixels);
  }
};

class HardTanh : public Pointwise {
  void apply(const Kernels& kernels, const float* x, float* y, int64_t channels, int64_t pixels) const override {
    kernels.maps.hard_tanh(x, y, channels * pixels);
  }
};

class LeakyRelu : public Pointwise {
 public:
  explicit LeakyRelu(Node& node) {
    const double slope = node.field("slope").number(node.what("slope"));
    slope_ = static_cast<float>(slope);
    rises_ = slope >= 0;
    if (!std::isfinite(slope_)) throw Refused(node.what("slope") + " is beyond float32");
  }
  std::vector<float> direction(int64_t channels) const override {
    return rises_ ? Pointwise::direction(channels) : std::vector<float>();
  }

 private:
  void apply(const Kernels& kernels, const float* x, float* y, int64_t channels, int64_t pixels) const override {
    kernels.maps.leaky_relu(x, slope_, y, channels * pixels);
  }
  float slope_;
  bool rises_;
};

class PRelu : public Pointwise {
 public:
  PRelu(File& file, Node& node) {
    const Json &fields = node.field("fields"), &arrays = node.field("arrays");
    const Json *channels = fields.find("channels"), *slope = arrays.find("['slope'].value");
    if (fields.kind != Json::kObject || fields.keys.size() != 1 || channels == nullptr || arrays.kind != Json::kObject || arrays.keys.size() != 1 || slope == nullptr ||
        slope->kind != Json::kString)
      throw Refused(node.what("fields") + ": expected channels, and the array ['slope'].value");
    channels_ = channels->integer(node.what("channels"), 1, kMostExtent);
    const Tensor& tensor = file.tensor(slope->text, node.what("arrays"));
    if (!tensor.floats || tensor.shape != std::vector<int64_t>{channels_})
      throw Refused(node.what("arrays") + " is of shape " + shown(tensor.shape) + ", expected F32[" + std::to_string(channels_) + "]");
    slopes_ = reinterpret_cast<const float*>(tensor.bytes);
  }

  Shape shape(const Shape& x, Budget&) const override {
    if (x.channels != channels_ && x.channels != kUnknown) throw Refused("PRelu: got input of shape " + shown(x) + ", expected " + std::to_string(channels_) + " channels");
    return x;
  }
  std::vector<float> direction(int64_t channels) const override {
    bool rises = channels == channels_;
    for (int64_t c = 0; rises && c < channels; ++c) rises = slopes_[c] >= 0;
    return rises ? Pointwise::direction(channels) : std::vector<float>();
  }

 private:
  void apply(const Kernels& kernels, const float* x, float* y, int64_t channels, int64_t pixels) const override {
    kernels.maps.prelu(x, slopes_, y, channels, pixels);
  }
  int64_t channels_;
  const float* slopes_;
};

class PackedNorm : public Pointwise {
 public:
  PackedNorm(File& file, Node& node) : channels_(node.integer("channels", 1)) {
    coefficients_ = floats_of(file, node, "coefficients", {2, channels_}, true);
  }

  Shape shape(const Shape& x, Budget&) const override {
    if (x.channels != channels_ && x.channels != kUnknown) throw Refused("normalization: got input of shape " + shown(x) + ", expected " + std::to_string(channels_) + " channels");
    return x;
  }
  std::vector<float> direction(int64_t channels) const override {
    if (channels != channels_) return {};
    std::vector<float> found(static_cast<size_t>(channels));
    for (size_t c = 0; c < found.size(); ++c) found[c] = coefficients_[c] > 0 ? 1.f : coefficients_[c] < 0 ? -1.f : 0.f;
    return found;
  }
  bool gives_signs() const override { return true; }
  Value signs_of(const Context& context, Value x) const override {
    Value y = made(context, x.images, x.shape, true);
    pack_signs(context.pool, context.kernels, x.floats(), coefficients_, channels_, x.rows(), y.block.as<uint32_t>());
    return y;
  }

 private:
  void apply(const Kernels& kernels, const float* x, float* y, int64_t channels, int64_t pixels) const override {
    kernels.maps.normalize(x, coefficients_, y, channels, pixels);
  }
  int64_t channels_;
  const float* coefficients_;
};

class MaxPool : public Layer {
 public:
  explicit MaxPool(Node& node) : window_(Window::of(node.node("window"))) {
    for (int d = 0; d < 2; ++d)
      if (window_.dilated() || std::max(window_.pads[d][0], window_.pads[d][1]) >= window_.size[d])
        throw Refused(node.what("window") + ": expected dilation [1, 1] and a padding smaller than the window, so that each sees a pixel");
  }

  Shape shape(const Shape& x, Budget& budget) const override {
    expect_map(x, "MaxPool");
    return window_.shape(x, x.channels, budget);
  }

  Value run(const Context& context, Value x) const override {
    Value y = made(context, x.images, shape_of(*this, x.shape), false);
    const Along down = window_.along(0, x.shape.height), right = window_.along(1, x.shape.width);
    const int64_t channels = x.shape.channels, lines = x.images * y.shape.height;
    in_parts(context, lines, y.count() * window_.taps() / 8, [&](int64_t first, int64_t last) {
      for (int64_t line = first; line < last; ++line) {
        float* to = y.block.as<float>() + line * y.shape.width * channels;
        const float* image = x.floats() + line / y.shape.height * x.shape.numbers();
        std::fill_n(to, y.shape.width * channels, -std::numeric_limits<float>::infinity());
        for (int64_t b = 0; b < y.shape.width; ++b, to += channels)
          window_.inside(0, line % y.shape.height, x.shape.height, down.before, [&](int64_t, int64_t row) {
            window_.inside(1, b, x.shape.width, right.before, [&](int64_t, int64_t column) {
              context.kernels.maps.highest(image + (row * x.shape.width + column) * channels, to, channels);
            });
          });
      }
    });
    return y;
  }

  bool moves_signs() const override { return true; }

  // A set bit is -1, so the lowest sign is OR and the highest AND: OR between two flips.
  Value on_signs(const Context& context, Value x, const uint32_t* highest) const override {
    Value y = made(context, x.images, shape_of(*this, x.shape), true);
    const Along down = window_.along(0, x.shape.height), right = window_.along(1, x.shape.width);
    const int64_t words = words_for(x.shape.channels), lines = x.images * y.shape.height;
    in_parts(context, lines, y.rows() * words * window_.taps(), [&](int64_t first, int64_t last) {
      for (int64_t line = first; line < last; ++line) {
        uint32_t* to = y.block.as<uint32_t>() + line * y.shape.width * words;
        const uint32_t* image = x.words() + line / y.shape.height * x.shape.pixels() * words;
        for (int64_t b = 0; b < y.shape.width; ++b, to += words) {
          std::fill_n(to, words, 0u);
          window_.inside(0, line % y.shape.height, x.shape.height, down.before, [&](int64_t, int64_t row) {
            window_.inside(1, b, x.shape.width, right.before, [&](int64_t, int64_t column) {
              const uint32_t* at = image + (row * x.shape.width + column) * words;
              for (int64_t i = 0; i < words; ++i) to[i] |= at[i] ^ highest[i];
            });
          });
          for (int64_t i = 0; i < words; ++i) to[i] ^= highest[i];
        }
      }
    });
    return y;
  }

 private:
  Window window_;
};

class AvgPool : public Layer {
 public:
  explicit AvgPool(Node& node) : window_(Window::of(node.node("window"))) {}

  Shape shape(const Shape& x, Budget& budget) const override {
    expect_map(x, "AvgPool");
    const Shape y = window_.shape(x, x.channels, budget);
    budget.count(y, window_.taps());  // The image as each tap sees it.
    return y;
  }

  Value run(const Context& context, Value x) const override {
    Value y = made(context, x.images, shape_of(*this, x.shape), false);
    mean_of_windows(context, window_, x.floats(), x.images, x.shape, y.shape, y.block.as<float>());
    return y;
  }

 private:
  Window window_;
};

class GlobalAveragePool : public Layer {
 public:
  Shape shape(const Shape& x, Budget&) const override {
    expect_map(x, "GlobalAveragePool");
    return {true, 1, 1, x.channels};
  }

  Value run(const Context& context, Value x) const override {
    Value y = made(context, x.images, shape_of(*this, x.shape), false);
    const int64_t numbers = x.shape.numbers();
    const float* from = x.floats();
    const Value changed = in_place_of(context, x);
    float* all = changed.block.as<float>();
    in_parts(context, y.images, y.images * numbers / 4, [&](int64_t first, int64_t last) {
      for (int64_t image = first; image < last; ++image) {
        float* rows = all + image * numbers;
        if (rows != from + image * numbers) memcpy(rows, from + image * numbers, static_cast<size_t>(numbers) * sizeof(float));
        ordered_mean(rows, numbers / y.shape.channels, y.shape.channels, y.block.as<float>() + image * y.shape.channels);
      }
    });
    return y;
  }
};

class Flatten : public Layer {
 public:
  Shape shape(const Shape& x, Budget&) const override { return {true, 1, 1, x.known() ? x.numbers() : kUnknown}; }
  Value run(const Context&, Value x) const override {
    x.shape = {true, 1, 1, x.shape.numbers()};
    return x;
  }
  bool keeps_channels() const override { return false; }
  bool moves_signs() const override { return true; }

  Value on_signs(const Context& context, Value x, const uint32_t*) const override {
    const Shape flat = {true, 1, 1, x.shape.numbers()};
    const int64_t channels = x.shape.channels, pixels = x.shape.pixels();
    if (channels % 32 == 0 || pixels == 1) {
      x.shape = flat;
      return x;
    }
    // Otherwise unused bits would lie between the pixels: the signs are packed anew.
    Value y = made(context, x.images, flat, true);
    const int64_t words = words_for(channels), all = words_for(flat.channels);
    memset(y.block.as<uint32_t>(), 0, static_cast<size_t>(x.images * all) * 4);
    for (int64_t image = 0; image < x.images; ++image)
      for (int64_t pixel = 0; pixel < pixels; ++pixel)
        for (int64_t i = 0; i < words; ++i) {
          const uint32_t word = x.words()[(image * pixels + pixel) * words + i];
          const int64_t bit = pixel * channels + 32 * i;
          uint32_t* to = y.block.as<uint32_t>() + image * all + bit / 32;
          to[0] |= word << (bit % 32);
          // Bits beyond the last channel are 0, and there is no next word for them.
          if (bit % 32 != 0 && word >> (32 - bit % 32) != 0) to[1] |= word >> (32 - bit % 32);
        }
    return y;
  }
};

class PadChannels : public Layer {
 public:
  explicit PadChannels(Node& node) : before_(node.integer("before", 0)), after_(node.integer("after", 0)) {}
  Shape shape(const Shape& x, Budget&) const override {
    return {x.flat, x.height, x.width, x.channels == kUnknown ? kUnknown : before_ + x.channels + after_};
  }
  bool keeps_channels() const override { return false; }

  Value run(const Context& context, Value x) const override {
    Value y = made(context, x.images, shape_of(*this, x.shape), false);
    const int64_t from = x.shape.channels, to = y.shape.channels;
    in_parts(context, x.rows(), y.count() / 4, [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p) {
        float* at = y.block.as<float>() + p * to;
        std::fill_n(at, before_, 0.f);
        memcpy(at + before_, x.floats() + p * from, static_cast<size_t>(from) * sizeof(float));
        std::fill_n(at + before_ + from, after_, 0.f);
      }
    });
    return y;
  }

 private:
  int64_t before_, after_;
};

}  // namespace
}  // namespace bnn
