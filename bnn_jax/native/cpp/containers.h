// Chains, sums and concatenations of layers; a chain compares a product's integers with thresholds up to the next sign.
#pragma once

#include <float.h>

#include <functional>

#include "float_products.h"
#include "packed_product.h"
#include "plain_layers.h"

namespace bnn {
namespace {

// One shape of two that are to be equal, as far as either is known.
Shape merged(const char* what, const Shape& a, const Shape& b) {
  const auto differ = [](int64_t m, int64_t n) { return m != n && m != kUnknown && n != kUnknown; };
  if (a.flat != b.flat || differ(a.height, b.height) || differ(a.width, b.width) || differ(a.channels, b.channels))
    throw Refused(std::string(what) + " give " + shown(a) + " and " + shown(b) + ", expected equal shapes");
  return {a.flat, std::max(a.height, b.height), std::max(a.width, b.width), std::max(a.channels, b.channels)};
}

// Layers `start` to `stop` of a chain, a product and what follows up to the next one, from integers to signs.
struct Run {
  size_t start, stop;
  std::vector<int32_t> thresholds;
  std::vector<uint32_t> flip;
  // For each layer that moves signs, where its input does not fall as the integer rises, as the signs are.
  std::vector<std::vector<uint32_t>> highest;
};

bool is_negative(float x) { return !(x > -FLT_MIN); }

Run run_of(const Layers& layers, size_t start, size_t stop, const IntegerForm& form, const Kernels& kernels) {
  const size_t n = static_cast<size_t>(form.channels);
  // Which integers of each channel are followed by a negative number.
  std::vector<float> x(n);
  const auto negative = [&](const std::vector<int32_t>& integers) {
    kernels.maps.of_integers(integers.data(), form.scale, nullptr, form.bias, x.data(), form.channels, 1);
    for (size_t i = start + 1; i < stop; ++i)
      if (!layers[i]->moves_signs()) layers[i]->pointwise(kernels, x.data(), form.channels);
    std::vector<bool> found(n);
    for (size_t c = 0; c < n; ++c) found[c] = is_negative(x[c]);
    return found;
  };
  const int32_t k = static_cast<int32_t>(form.largest);
  std::vector<int32_t> below(n, -k), above(n, k), middle(n);
  const std::vector<bool> at_lowest = negative(below), at_highest = negative(above);
  std::vector<bool> flip(n);
  for (size_t c = 0; c < n; ++c) flip[c] = !at_lowest[c] && at_highest[c];
  for (int halving = 0; halving < 31; ++halving) {
    for (size_t c = 0; c < n; ++c) middle[c] = below[c] + (above[c] - below[c]) / 2;
    const std::vector<bool> found = negative(middle);
    for (size_t c = 0; c < n; ++c) (found[c] != flip[c] ? below : above)[c] = middle[c];
  }
  for (size_t c = 0; c < n; ++c)
    if (at_lowest[c] == at_highest[c]) above[c] = at_lowest[c] ? k + 1 : -k;
  Run run{start, stop, std::move(above), words_of(flip), {}};
  std::vector<float> rising(n, 1.f);
  for (size_t c = 0; form.scale != nullptr && c < n; ++c) rising[c] = form.scale[c] > 0 ? 1.f : form.scale[c] < 0 ? -1.f : 0.f;
  for (size_t i = start + 1; i < stop; ++i) {
    if (layers[i]->moves_signs()) {
      std::vector<bool> mask(n);
      for (size_t c = 0; c < n; ++c) mask[c] = (rising[c] >= 0) != flip[c];
      run.highest.push_back(words_of(mask));
      continue;
    }
    const std::vector<float> direction = layers[i]->direction(form.channels);
    for (size_t c = 0; c < n; ++c) rising[c] *= direction[c];
  }
  return run;
}

class Chain : public Layer {
 public:
  explicit Chain(Layers layers) : layers_(std::move(layers)) {}

  Shape shape(const Shape& x, Budget& budget) const override {
    Shape y = x;
    for (size_t i = 0; i < layers_.size(); ++i) {
      y = layers_[i]->shape(y, budget);
      // What the last one makes is counted by whoever asked.
      if (i + 1 < layers_.size()) budget.count(y);
    }
    return y;
  }

  bool multiplies_bits() const override {
    for (const auto& layer : layers_)
      if (layer->multiplies_bits()) return true;
    return false;
  }

  void complete(const Kernels& kernels, bool in_order) override {
    for (const auto& layer : layers_) layer->complete(kernels, in_order);
    for (size_t start = 0; start < layers_.size(); ++start) {
      const std::optional<IntegerForm> form = layers_[start]->integer_form();
      if (!form) continue;
      size_t stop = start + 1;
      while (stop < layers_.size() && !layers_[stop]->reads_only_signs()) ++stop;
      if (stop == layers_.size()) continue;
      bool monotone = true, moved = false;
      for (size_t i = start + 1; monotone && i < stop; ++i) {
        monotone = layers_[i]->moves_signs() || !layers_[i]->direction(form->channels).empty();
        // Flattening comes last.
        if (moved && layers_[i]->keeps_channels()) monotone = false;
        moved = moved || !layers_[i]->keeps_channels();
      }
      if (monotone) runs_.push_back(run_of(layers_, start, stop, *form, kernels));
    }
  }

  Value run(const Context& context, Value x) const override {
    size_t done = 0;
    for (const Run& run : runs_) {
      x = through(context, done, run.start, std::move(x));
      x = layers_[run.start]->compared(context, std::move(x), run.thresholds.data(), run.flip.data());
      size_t moving = 0;
      for (size_t i = run.start + 1; i < run.stop; ++i)
        if (layers_[i]->moves_signs()) x = layers_[i]->on_signs(context, std::move(x), run.highest[moving++].data());
      done = run.stop;
    }
    return through(context, done, layers_.size(), std::move(x));
  }

 private:
  Value through(const Context& context, size_t start, size_t stop, Value x) const {
    for (size_t i = start; i < stop; ++i) {
      // Where nothing but signs is read, the map itself is never written.
      const bool only_signs = i + 1 < layers_.size() && layers_[i + 1]->reads_only_signs() && layers_[i]->gives_signs();
      x = only_signs ? layers_[i]->signs_of(context, std::move(x)) : layers_[i]->run(context, std::move(x));
    }
    return x;
  }

  Layers layers_;
  std::vector<Run> runs_;
};

class Sum : public Layer {
 public:
  Sum(std::unique_ptr<Layer> body, std::unique_ptr<Layer> shortcut) : body_(std::move(body)), shortcut_(std::move(shortcut)) {}

  Shape shape(const Shape& x, Budget& budget) const override {
    return merged("Sum: body and shortcut", body_->shape(x, budget), shortcut_->shape(x, budget));
  }
  bool multiplies_bits() const override { return body_->multiplies_bits() || shortcut_->multiplies_bits(); }
  void complete(const Kernels& kernels, bool in_order) override {
    body_->complete(kernels, in_order);
    shortcut_->complete(kernels, in_order);
  }

  Value run(const Context& context, Value x) const override {
    Value a = body_->run(context, x.borrowed());
    // Where the body hands x itself on, the shortcut must not change it.
    const bool shared = a.data == x.data;
    Value b = shortcut_->run(context, shared ? x.borrowed() : std::move(x));
    const float *left = a.floats(), *right = b.floats();
    Value y = in_place_of(context, a.block ? a : b);
    float* to = y.block.as<float>();
    in_parts(context, y.count(), y.count() / 4, [&](int64_t first, int64_t last) {
      context.kernels.maps.add(left + first, right + first, to + first, last - first);
    });
    return y;
  }

 private:
  std::unique_ptr<Layer> body_, shortcut_;
};

class Concat : public Layer {
 public:
  explicit Concat(Layers branches) : branches_(std::move(branches)) {}

  Shape shape(const Shape& x, Budget& budget) const override {
    Shape all = branches_[0]->shape(x, budget);
    for (size_t i = 1; i < branches_.size(); ++i) {
      Shape one = branches_[i]->shape(x, budget);
      const int64_t channels = one.channels == kUnknown || all.channels == kUnknown ? kUnknown : all.channels + one.channels;
      one.channels = all.channels;
      all = merged("Concat: branches, but for their channels,", all, one);
      all.channels = channels;
    }
    return all;
  }
  bool multiplies_bits() const override {
    for (const auto& branch : branches_)
      if (branch->multiplies_bits()) return true;
    return false;
  }
  void complete(const Kernels& kernels, bool in_order) override {
    for (const auto& branch : branches_) branch->complete(kernels, in_order);
  }

  Value run(const Context& context, Value x) const override {
    Value y = made(context, x.images, shape_of(*this, x.shape), false);
    int64_t start = 0;
    for (const auto& branch : branches_) {
      const Value one = branch->run(context, x.borrowed());
      const int64_t some = one.shape.channels, all = y.shape.channels;
      in_parts(context, y.rows(), one.count() / 4, [&](int64_t first, int64_t last) {
        for (int64_t p = first; p < last; ++p)
          memcpy(y.block.as<float>() + p * all + start, one.floats() + p * some, static_cast<size_t>(some) * sizeof(float));
      });
      start += some;
    }
    return y;
  }

 private:
  Layers branches_;
};

std::unique_ptr<Layer> layer_of(File& file, Node node);

std::unique_ptr<Layer> chain_of(File& file, Node node) {
  if (node.kind() != "Chain") throw Refused(node.what("kind") + ": expected a Chain");
  return layer_of(file, std::move(node));
}

Layers layers_of(File& file, Node& node, const std::string& field, bool chains) {
  Layers layers;
  const std::vector<Json>& list = node.list(field);
  for (size_t i = 0; i < list.size(); ++i)
    layers.push_back(chains ? chain_of(file, node.item(field, i)) : layer_of(file, node.item(field, i)));
  return layers;
}

std::unique_ptr<Layer> stateless_of(Node node) {
  std::unique_ptr<Layer> layer;
  const std::string& kind = node.kind();
  if (kind == "Relu") layer = std::make_unique<Relu>();
  else if (kind == "HardTanh") layer = std::make_unique<HardTanh>();
  else if (kind == "LeakyRelu") layer = std::make_unique<LeakyRelu>(node);
  else if (kind == "MaxPool") layer = std::make_unique<MaxPool>(node);
  else if (kind == "AvgPool") layer = std::make_unique<AvgPool>(node);
  else if (kind == "GlobalAveragePool") layer = std::make_unique<GlobalAveragePool>();
  else if (kind == "Flatten") layer = std::make_unique<Flatten>();
  else if (kind == "PadChannels") layer = std::make_unique<PadChannels>(node);
  else throw Refused(node.what("kind") + ": this library knows no such function; one of your own runs in bnn_jax alone");
  node.expect_no_more();
  return layer;
}

std::unique_ptr<Layer> layer_of(File& file, Node node) {
  std::unique_ptr<Layer> layer;
  const std::string& kind = node.kind();
  if (kind == "Chain") {
    layer = std::make_unique<Chain>(layers_of(file, node, "layers", false));
  } else if (kind == "Sum") {
    auto body = chain_of(file, node.node("body")), shortcut = chain_of(file, node.node("shortcut"));
    layer = std::make_unique<Sum>(std::move(body), std::move(shortcut));
  } else if (kind == "Concat") {
    Layers branches = layers_of(file, node, "branches", true);
    if (branches.empty()) throw Refused(node.what("branches") + " is empty");
    layer = std::make_unique<Concat>(std::move(branches));
  } else if (kind == "PackedProduct") {
    layer = std::make_unique<PackedProduct>(file, node);
  } else if (kind == "UnpackedProduct") {
    layer = std::make_unique<UnpackedProduct>(file, node);
  } else if (kind == "FloatProduct") {
    layer = std::make_unique<FloatProduct>(file, node);
  } else if (kind == "PackedNorm") {
    layer = std::make_unique<PackedNorm>(file, node);
  } else if (kind == "Stateless") {
    layer = stateless_of(node.node("function"));
  } else if (kind == "KeptModule") {
    const Json& name = node.field("name");
    if (name.kind != Json::kString || name.text != "PRelu")
      throw Refused(node.what("name") + " is " + name.shown() + ": this library knows 'PRelu' alone; a layer of your own runs in bnn_jax");
    layer = std::make_unique<PRelu>(file, node);
  } else {
    throw Refused(node.what("kind") + ": this library knows no such layer; take a newer one");
  }
  node.expect_no_more();
  return layer;
}

}  // namespace
}  // namespace bnn
