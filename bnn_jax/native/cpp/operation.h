// A convolution or a dense product of bits, to integers or to signs.
#pragma once

#include "windows.h"

namespace bnn {
namespace {

// A convolution or a dense product, and its weights as words or as floats.
struct Operation {
  bool dense = false;
  Window window = {};
  int64_t pad_value = 0, groups = 1;
  bool along_filters = false;
  int64_t in = 0, out = 0;

  static Operation of(Node& layer) {
    Operation operation;
    operation.in = layer.integer("into", 1), operation.out = layer.integer("out", 1);
    Node node = layer.node("product");
    operation.dense = node.kind() == "Dense";
    if (!operation.dense) {
      if (node.kind() != "Convolution") throw Refused(node.what("kind") + ": expected 'Convolution' or 'Dense'");
      operation.window = Window::of(node.node("window"));
      if (const Json* value = node.optional("pad_value")) operation.pad_value = value->integer(node.what("pad_value"), -1, 1);
      if (const Json* value = node.optional("groups")) operation.groups = value->integer(node.what("groups"), 1, kMostExtent);
      if (operation.in % operation.groups != 0 || operation.out % operation.groups != 0)
        throw Refused(node.what("groups") + " is " + std::to_string(operation.groups) + ", expected a divisor of " + std::to_string(operation.in) + " and " + std::to_string(operation.out));
      const Json* filters = node.optional("filters");
      operation.along_filters = filters != nullptr && filters->kind != Json::kNull;
      if (operation.along_filters && (filters->integer(node.what("filters"), 1, kMostExtent) != operation.out || !operation.narrow()))
        throw Refused(node.what("filters") + " is " + filters->shown() + ", expected null, or " + std::to_string(operation.out) + " in several groups of fewer than 32 channels");
    } else {
      operation.window.size[0] = operation.window.size[1] = 1;
    }
    node.expect_no_more();
    return operation;
  }

  int64_t each() const { return in / groups; }
  bool narrow() const { return groups > 1 && each() < 32; }
  int64_t terms() const { return window.taps() * each(); }

  std::vector<int64_t> kernel_shape() const {
    if (dense) return {in, out};
    return {window.size[0], window.size[1], each(), out};
  }
  std::vector<int64_t> words_shape() const {
    if (dense) return {out, words_for(in)};
    if (along_filters) return {window.size[0], window.size[1], each(), words_for(out)};
    return {window.size[0], window.size[1], words_for(each()), out};
  }

  Shape shape(const Shape& x, Budget& budget) const {
    if ((x.channels != in && x.channels != kUnknown) || (!dense && x.flat))
      throw Refused(std::string(dense ? "dense layer" : "convolution") + ": got input of shape " + shown(x) + ", expected " +
                    (dense ? "(N, " : "(N, H, W, ") + std::to_string(in) + ")" + (dense ? "; give the network images of the size it was built for" : ""));
    if (dense) return {x.flat, x.height, x.width, out};
    return window.shape(x, out, budget);
  }
  // Of an image that is known to fit.
  Shape shape(const Shape& x) const {
    Budget none({true, 1, 1, kUnknown}, 0);
    return shape(x, none);
  }

  // Words whose unused bits are 0.
  const uint32_t* words(File& file, Node& node) const {
    if (static_cast<double>(window.taps()) * static_cast<double>(each()) > static_cast<double>(kMostExtent))
      throw Refused(node.what("product") + ": a sum of more than 2^24 signs");
    const auto* words = static_cast<const uint32_t*>(tensor_of(file, node, "words", false, words_shape(), true));
    const int64_t signs = dense ? in : along_filters ? out : each(), used = signs - 32 * (words_for(signs) - 1);
    if (used == 32) return words;
    // The words that hold the last signs: the last of each row, or a last row of them.
    const int64_t n = words_for(signs), inner = dense || along_filters ? 1 : out;
    const int64_t outer = dense ? out : along_filters ? window.taps() * each() : window.taps();
    for (int64_t i = 0; i < outer; ++i)
      for (int64_t k = 0; k < inner; ++k)
        if (words[(i * n + n - 1) * inner + k] >> used != 0) throw Refused(node.what("words") + ": bits beyond sign " + std::to_string(signs) + " are set, expected 0");
    return words;
  }

  // The sign of weight (tap, channel of a group, filter): whether it is -1.
  bool negative(const uint32_t* words, int64_t tap, int64_t c, int64_t f) const {
    if (dense) return words[f * words_for(in) + c / 32] >> (c % 32) & 1;
    if (along_filters) return words[(tap * each() + c) * words_for(out) + f / 32] >> (f % 32) & 1;
    return words[(tap * words_for(each()) + c / 32) * out + f] >> (c % 32) & 1;
  }

  Geometry geometry(int64_t images, const Shape& x, const Shape& y, int64_t top, int64_t left) const {
    return {images,     x.height,          x.width,           each(),            words_for(each()), window.size[0],     window.size[1],
            window.strides[0], window.strides[1], top, left, window.dilation[0], window.dilation[1], y.height, y.width, out / groups};
  }
};

// x as its layer sees it where something else than zeros lies outside: `pixel` words a pixel, those outside all `outside`.
struct Padded {
  Memory::Block block;
  const uint32_t* words;
  Shape shape;
  int64_t top, left;

  Padded(const Context& context, const Operation& operation, const uint32_t* x, int64_t images, const Shape& of,
         int64_t pixel, const std::vector<uint32_t>& outside) {
    const Along down = operation.window.along(0, of.height), right = operation.window.along(1, of.width);
    shape = of, words = x, top = down.before, left = right.before;
    if (operation.pad_value == 0) return;
    shape.height += down.before + down.after, shape.width += right.before + right.after;
    block = context.memory.numbers(images * shape.pixels() * pixel);
    uint32_t* to = block.as<uint32_t>();
    words = to;
    for (int64_t image = 0; image < images; ++image)
      for (int64_t row = -down.before; row < of.height + down.after; ++row)
        for (int64_t column = -right.before; column < of.width + right.after;) {
          if (row >= 0 && row < of.height && column == 0) {
            memcpy(to, x + (image * of.height + row) * of.width * pixel, static_cast<size_t>(of.width * pixel) * 4);
            to += of.width * pixel, column = of.width;
            continue;
          }
          memcpy(to, outside.data(), static_cast<size_t>(pixel) * 4);
          to += pixel, ++column;
        }
    top = left = 0;
  }
};

// The words of a group's channels, [start, start + each) of a pixel, bit 0 the first one.
void channels_of_group(const uint32_t* x, int64_t pixels, int64_t words, int64_t start, int64_t each, uint32_t* to) {
  const int64_t n = words_for(each), first = start / 32, shift = start % 32;
  const uint32_t last = each % 32 == 0 ? 0xffffffffu : (1u << (each % 32)) - 1;
  for (int64_t pixel = 0; pixel < pixels; ++pixel, x += words)
    for (int64_t i = 0; i < n; ++i) {
      uint32_t word = x[first + i] >> shift;
      if (shift != 0 && first + i + 1 < words) word |= x[first + i + 1] << (32 - shift);
      *to++ = i == n - 1 ? word & last : word;
    }
}

// For channel e of a group the sign that each filter sees, as words along the filters: to (each, pixels, words_for(out)).
void channels_of_filters(const Operation& operation, const uint32_t* x, int64_t pixels, uint32_t* to) {
  const int64_t each = operation.each(), of_group = operation.out / operation.groups, words = words_for(operation.in);
  const int64_t n = words_for(operation.out);
  if (each == 1 && of_group == 1) {
    memcpy(to, x, static_cast<size_t>(pixels * words) * 4);
    return;
  }
  memset(to, 0, static_cast<size_t>(each * pixels * n) * 4);
  for (int64_t e = 0; e < each; ++e)
    for (int64_t pixel = 0; pixel < pixels; ++pixel, to += n)
      for (int64_t f = 0; f < operation.out; ++f) {
        const int64_t channel = f / of_group * each + e;
        to[f / 32] |= (x[pixel * words + channel / 32] >> (channel % 32) & 1) << (f % 32);
      }
}

// Products of bits, to integers or, with thresholds, to signs. along: in narrow groups the words along the filters.
void multiply_bits(const Context& context, const Operation& operation, const uint32_t* words, const uint32_t* along,
                   const uint32_t* x, int64_t images, const Shape& of, const Shape& shape, Result to) {
  const Kernels& kernels = context.kernels;
  const int64_t out = operation.out, pixels = images * shape.pixels();
  Memory::Block integers;
  const Result wanted = to;
  const bool compares = to.thresholds != nullptr && (operation.dense || (operation.groups > 1 && !operation.narrow()));
  if (compares) {
    integers = context.memory.numbers(pixels * out);
    to = {integers.as<int32_t>(), nullptr, nullptr, nullptr};
  }
  if (operation.dense) {
    multiply(context.pool, kernels, x, images * of.pixels(), words, words_for(operation.in), operation.in, to.integers, out);
  } else {
    std::vector<uint32_t> outside(static_cast<size_t>(words_for(operation.in)));
    if (operation.pad_value == -1)
      outside = words_of(std::vector<bool>(static_cast<size_t>(operation.in), true));
    const Padded padded(context, operation, x, images, of, words_for(operation.in), outside);
    Geometry g = operation.geometry(images, padded.shape, shape, padded.top, padded.left);
    const int64_t seen = images * padded.shape.pixels();
    if (operation.groups == 1) {
      convolve(context.pool, kernels, g, padded.words, {words, out, 1}, to);
    } else if (operation.narrow()) {
      g.words = words_for(out), g.out = out;
      const Memory::Block turned = context.memory.numbers(operation.each() * seen * g.words);
      channels_of_filters(operation, padded.words, seen, turned.as<uint32_t>());
      convolve_narrow(context.pool, kernels, g, turned.as<uint32_t>(), along, to);
    } else {
      const Memory::Block of_group = context.memory.numbers(seen * g.words), some = context.memory.numbers(pixels * g.out);
      for (int64_t group = 0; group < operation.groups; ++group) {
        channels_of_group(padded.words, seen, words_for(operation.in), group * operation.each(), operation.each(), of_group.as<uint32_t>());
        convolve(context.pool, kernels, g, of_group.as<uint32_t>(), {words + group * g.out, out, 1}, {some.as<int32_t>(), nullptr, nullptr, nullptr});
        for (int64_t pixel = 0; pixel < pixels; ++pixel)
          memcpy(to.integers + pixel * out + group * g.out, some.as<int32_t>() + pixel * g.out, static_cast<size_t>(g.out) * 4);
      }
    }
  }
  if (compares)
    in_parts(context, pixels, pixels * out / 8, [&](int64_t first, int64_t last) {
      kernels.maps.compare(to.integers + first * out, wanted.thresholds, wanted.flip, wanted.signs + first * words_for(out), out, last - first);
    });
}

}  // namespace
}  // namespace bnn
