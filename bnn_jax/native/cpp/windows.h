// Windows over an image, in convolutions and in pooling.
#pragma once

#include <cstring>

#include "node.h"
#include "values.h"

namespace bnn {
namespace {

// Along one axis: how many results there are, and how many pixels lie outside before and after the image.
struct Along {
  int64_t results, before, after;
};

struct Window {
  int64_t size[2], strides[2] = {1, 1}, dilation[2] = {1, 1}, pads[2][2] = {};
  bool same = false;

  static Window of(Node node) {
    Window window;
    if (node.kind() != "Window") throw Refused(node.what("kind") + ": expected a Window");
    pair(node, "size", window.size, true);
    pair(node, "strides", window.strides, false);
    pair(node, "dilation", window.dilation, false);
    const Json* padding = node.optional("padding");
    if (padding != nullptr && padding->kind == Json::kString) {
      window.same = padding->text == "SAME";
      if (!window.same && padding->text != "VALID") throw Refused(node.what("padding") + " is " + padding->shown() + ", expected 'SAME', 'VALID' or pairs");
    } else if (padding != nullptr) {
      if (padding->kind != Json::kArray || padding->items.size() != 2) throw Refused(node.what("padding") + " is " + padding->shown() + ", expected 'SAME', 'VALID' or two pairs");
      for (int d = 0; d < 2; ++d) {
        const Json& two = padding->items[static_cast<size_t>(d)];
        if (two.kind != Json::kArray || two.items.size() != 2) throw Refused(node.what("padding") + " holds " + two.shown() + ", expected a pair");
        for (int e = 0; e < 2; ++e) window.pads[d][e] = two.items[static_cast<size_t>(e)].integer(node.what("padding"), 0, kMostWindow);
      }
    }
    node.expect_no_more();
    for (int d = 0; d < 2; ++d) {
      if (window.extent(d) > kMostWindow)
        throw Refused(node.what("size") + ": " + std::to_string(window.extent(d)) + " pixels from the first tap to the last one, expected at most " + std::to_string(kMostWindow));
      if (std::max(window.pads[d][0], window.pads[d][1]) > window.extent(d))
        throw Refused(node.what("padding") + ": expected at most the extent of the window, " + std::to_string(window.extent(d)));
    }
    return window;
  }

  int64_t taps() const { return size[0] * size[1]; }
  int64_t extent(int d) const { return dilation[d] * (size[d] - 1) + 1; }
  bool dilated() const { return dilation[0] != 1 || dilation[1] != 1; }

  Along along(int d, int64_t pixels) const {
    int64_t before = pads[d][0], after = pads[d][1];
    if (same) {
      const int64_t wanted = (pixels + strides[d] - 1) / strides[d], all = (wanted - 1) * strides[d] + extent(d) - pixels;
      before = all > 0 ? all / 2 : 0, after = all > 0 ? all - before : 0;
    }
    if (pixels + before + after < extent(d))
      throw Refused(std::string("an image of ") + (d == 0 ? "height " : "width ") + std::to_string(pixels) + " with its padding is smaller than a window (" +
                    std::to_string(extent(d)) + "); use larger images");
    return {(pixels + before + after - extent(d)) / strides[d] + 1, before, after};
  }

  // What the window makes of a map; its padding is counted.
  Shape shape(const Shape& x, int64_t channels, Budget& budget) const {
    if (x.height == kUnknown || x.width == kUnknown) return {false, kUnknown, kUnknown, channels};
    const Along down = along(0, x.height), right = along(1, x.width);
    budget.count({false, x.height + down.before + down.after, x.width + right.before + right.after, x.channels});
    return {false, down.results, right.results, channels};
  }

  // The taps of one axis that lie inside the image at result `place`: calls tap(which, pixel).
  template <typename Tap>
  void inside(int d, int64_t place, int64_t pixels, int64_t before, const Tap& tap) const {
    const int64_t start = place * strides[d] - before, step = dilation[d];
    const int64_t first = start < 0 ? (-start + step - 1) / step : 0;
    for (int64_t i = first; i < size[d] && start + i * step < pixels; ++i) tap(i, start + i * step);
  }

 private:
  static void pair(Node& node, const std::string& field, int64_t* to, bool needed) {
    const Json* value = node.optional(field);
    if (value == nullptr && !needed) return;
    if (value == nullptr || value->kind != Json::kArray || value->items.size() != 2) throw Refused(node.what(field) + ": expected a pair of integers");
    for (int d = 0; d < 2; ++d) to[d] = value->items[static_cast<size_t>(d)].integer(node.what(field), 1, kMostWindow);
  }
};

void expect_map(const Shape& x, const char* layer) {
  if (x.flat) throw Refused(std::string(layer) + ": got input of shape " + shown(x) + ", expected (N, H, W, C)");
}

// The mean over every window of x, zeros outside the image counted in, to y: `rows` results of one line, channels each.
void mean_of_windows(const Context& context, const Window& window, const float* x, int64_t images, const Shape& of,
                     const Shape& to, float* y) {
  const Along down = window.along(0, of.height), right = window.along(1, of.width);
  const int64_t line = to.width * of.channels;
  in_parts(context, images * to.height, images * to.height * line * window.taps(), [&](int64_t first, int64_t last) {
    std::vector<float> taps(static_cast<size_t>(window.taps() * line));
    for (int64_t at = first; at < last; ++at) {
      std::fill(taps.begin(), taps.end(), 0.f);
      const float* image = x + at / to.height * of.numbers();
      window.inside(0, at % to.height, of.height, down.before, [&](int64_t i, int64_t row) {
        for (int64_t b = 0; b < to.width; ++b)
          window.inside(1, b, of.width, right.before, [&](int64_t j, int64_t column) {
            memcpy(taps.data() + (i * window.size[1] + j) * line + b * of.channels, image + (row * of.width + column) * of.channels,
                   static_cast<size_t>(of.channels) * sizeof(float));
          });
      });
      ordered_mean(taps.data(), window.taps(), line, y + at * line);
    }
  });
}

}  // namespace
}  // namespace bnn
