#include "layers.h"

#include <float.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace bnn {

std::string shown(const Shape& shape) {
  const auto extent = [](int64_t n) { return n == kUnknown ? std::string("?") : std::to_string(n); };
  if (shape.flat) return "(N, " + extent(shape.channels) + ")";
  return "(N, " + extent(shape.height) + ", " + extent(shape.width) + ", " + extent(shape.channels) + ")";
}

Flushing::Flushing() {
#if defined(__x86_64__)
  before_ = _mm_getcsr();
  _mm_setcsr(static_cast<unsigned>(before_) | 0x8040);  // Results and operands.
#elif defined(__aarch64__)
  asm volatile("mrs %0, fpcr" : "=r"(before_));
  asm volatile("msr fpcr, %0" : : "r"(before_ | 1u << 24));
#endif
}

Flushing::~Flushing() {
#if defined(__x86_64__)
  _mm_setcsr(static_cast<unsigned>(before_));
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" : : "r"(before_));
#endif
}

void Budget::count(const Shape& map, int64_t times) {
  constexpr double kLargest = 256, kAll = 4096;
  if (!counts_ || !map.known()) return;
  // As floats: no integer holds what a file may ask for.
  const double numbers = static_cast<double>(map.height) * static_cast<double>(map.width) * static_cast<double>(map.channels) * static_cast<double>(times);
  total_ += numbers;
  if (numbers > kLargest * explained_ || total_ > kAll * explained_)
    throw Refused("a map of shape " + shown(map) + (times == 1 ? "" : ", " + std::to_string(times) + " times") +
                  ": expected at most 256 numbers in a map, and 4096 in all, for each number of the image and byte of the tensors");
  largest = std::max(largest, map.numbers() * times);
}

Memory::Block Memory::numbers(int64_t count) {
  const size_t size = 4 * static_cast<size_t>(count) + 64;
  size_t best = held_.size(), freed = held_.size();
  for (size_t i = 0; i < held_.size(); ++i) {
    if (held_[i].used) continue;
    if (held_[i].size >= size && (best == held_.size() || held_[i].size < held_[best].size)) best = i;
    if (held_[i].size < size) freed = i;
  }
  if (best == held_.size()) {
    // One that is too small makes room for the new one, so that there are never more than are in use at once.
    if (freed < held_.size()) {
      held_[freed].memory.reset();
      held_[freed].size = 0;
    }
    std::unique_ptr<char[]> memory(new char[size]);
    char* at = memory.get() + (64 - reinterpret_cast<uintptr_t>(memory.get()) % 64) % 64;
    best = freed;
    if (best == held_.size()) held_.push_back({});
    held_[best] = {std::move(memory), at, size, false};
  }
  held_[best].used = true;
  return Block(this, best, held_[best].at);
}

namespace {

int64_t words_for(int64_t channels) { return (channels + 31) / 32; }

// Calls work(first, last) for parts of [0, n), each of them `cost` words' comparisons in all.
template <typename Work>
void in_parts(const Context& context, int64_t n, int64_t cost, const Work& work) {
  const int64_t tasks = parts(context.pool, n, cost);
  share(context.pool, tasks, [&](int64_t task) { work(n * task / tasks, n * (task + 1) / tasks); });
}

Value made(const Context& context, int64_t images, const Shape& shape, bool signs) {
  const int64_t count = images * (signs ? shape.pixels() * words_for(shape.channels) : shape.numbers());
  Memory::Block block = context.memory.numbers(count);
  const void* data = block.as<char>();
  return {images, shape, signs, data, std::move(block)};
}

// Where the result of a layer goes that changes every number for itself: in its operand's place, unless another owns that.
Value in_place_of(const Context& context, Value& x) {
  if (x.block) return {x.images, x.shape, x.signs, x.data, std::move(x.block)};
  return made(context, x.images, x.shape, x.signs);
}

// What a layer makes of an image that is known to fit.
Shape shape_of(const Layer& layer, const Shape& x) {
  Budget none({true, 1, 1, kUnknown}, 0);
  return layer.shape(x, none);
}

// The words of a mask, a set bit where it is true.
std::vector<uint32_t> words_of(const std::vector<bool>& mask) {
  std::vector<uint32_t> words(words_for(static_cast<int64_t>(mask.size())));
  for (size_t i = 0; i < mask.size(); ++i) words[i / 32] |= static_cast<uint32_t>(mask[i]) << (i % 32);
  return words;
}

// The mean of n rows of m numbers, in the order of docs/format.md; the rows are changed.
void ordered_mean(float* rows, int64_t n, int64_t m, float* mean) {
  int64_t left_over[64];
  int left = 0;
  const float share_of_one = static_cast<float>(1.0 / static_cast<double>(n));
  while (n > 1) {
    if (n % 2 != 0) left_over[left++] = n - 1;
    n /= 2;
    for (int64_t i = 0; i < n * m; ++i) rows[i] = rows[i] + rows[i + n * m];
  }
  for (int k = 0; k < left; ++k)
    for (int64_t i = 0; i < m; ++i) rows[i] = rows[i] + rows[left_over[k] * m + i];
  for (int64_t i = 0; i < m; ++i) mean[i] = rows[i] * share_of_one;
}

// -- What a file states ----------------------------------------------------------------------------------------------------

// A node of the tree: its fields are asked for by name, and those that nobody asks for are refused.
class Node {
 public:
  Node(File& file, const Json& json, std::string path, int depth) : file_(file), json_(json), path_(std::move(path)), depth_(depth) {
    file.expect_node(path_, depth);
    if (json.kind != Json::kObject) throw Refused(path_ + " is " + json.shown() + ", expected an object");
    const Json* kind = json.find("kind");
    if (kind == nullptr || kind->kind != Json::kString) throw Refused(path_ + " has no kind");
    kind_ = kind->text;
    path_ += " (" + kind->shown() + ")";
    asked_.push_back("kind");
  }

  const std::string& kind() const { return kind_; }
  std::string what(const std::string& field) const { return path_ + "." + field; }

  const Json* optional(const std::string& field) {
    asked_.push_back(field);
    return json_.find(field);
  }
  const Json& field(const std::string& field) {
    const Json* found = optional(field);
    if (found == nullptr) throw Refused(what(field) + " is missing");
    return *found;
  }
  int64_t integer(const std::string& field, int64_t least) { return this->field(field).integer(what(field), least, kMostExtent); }
  bool boolean(const std::string& field) {
    const Json& value = this->field(field);
    if (value.kind != Json::kBoolean) throw Refused(what(field) + " is " + value.shown() + ", expected true or false");
    return value.boolean;
  }
  const std::vector<Json>& list(const std::string& field) {
    const Json& value = this->field(field);
    if (value.kind != Json::kArray) throw Refused(what(field) + " is " + value.shown() + ", expected a list");
    return value.items;
  }
  Node node(const std::string& field) { return Node(file_, this->field(field), what(field), depth_ + 1); }
  Node item(const std::string& field, size_t i) {
    return Node(file_, list(field)[i], what(field) + "[" + std::to_string(i) + "]", depth_ + 2);
  }

  // Every field has been asked for.
  void expect_no_more() const {
    for (const std::string& key : json_.keys) {
      bool known = false;
      for (const std::string& name : asked_) known = known || name == key;
      if (!known) throw Refused(what(key) + " is unknown to this library");
    }
  }

 private:
  File& file_;
  const Json& json_;
  std::string path_, kind_;
  int depth_;
  std::vector<std::string> asked_;
};

// A tensor of floats or words, or nullptr where the field holds null, and may. Throws unless it has this shape.
const void* tensor_of(File& file, Node& node, const std::string& field, bool floats, const std::vector<int64_t>& shape,
                      bool needed, bool in_every_file = true) {
  const Json* value = in_every_file ? &node.field(field) : node.optional(field);
  if (value == nullptr || value->kind == Json::kNull) {
    if (needed) throw Refused(node.what(field) + " is null, expected a tensor");
    return nullptr;
  }
  if (value->kind != Json::kString) throw Refused(node.what(field) + " is " + value->shown() + ", expected the name of a tensor");
  const Tensor& tensor = file.tensor(value->text, node.what(field));
  if (tensor.floats != floats || tensor.shape != shape)
    throw Refused(node.what(field) + " is " + (tensor.floats ? "F32" : "U32") + shown(tensor.shape) + ", expected " + (floats ? "F32" : "U32") + shown(shape));
  return tensor.bytes;
}
const float* floats_of(File& file, Node& node, const std::string& field, const std::vector<int64_t>& shape, bool needed,
                       bool in_every_file = true) {
  return static_cast<const float*>(tensor_of(file, node, field, true, shape, needed, in_every_file));
}

// -- Windows ---------------------------------------------------------------------------------------------------------------

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

// -- Products --------------------------------------------------------------------------------------------------------------

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

// -- Layers beside products ------------------------------------------------------------------------------------------------

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

// One shape of two that are to be equal, as far as either is known.
Shape merged(const char* what, const Shape& a, const Shape& b) {
  const auto differ = [](int64_t m, int64_t n) { return m != n && m != kUnknown && n != kUnknown; };
  if (a.flat != b.flat || differ(a.height, b.height) || differ(a.width, b.width) || differ(a.channels, b.channels))
    throw Refused(std::string(what) + " give " + shown(a) + " and " + shown(b) + ", expected equal shapes");
  return {a.flat, std::max(a.height, b.height), std::max(a.width, b.width), std::max(a.channels, b.channels)};
}

// -- Containers ------------------------------------------------------------------------------------------------------------

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

int64_t Network::expect_fits(int64_t height, int64_t width) const {
  const Shape image = {false, height, width, channels};
  Budget budget(image, stored_bytes);
  const Shape logits = body->shape(image, budget);
  budget.count(logits);
  if (!logits.flat || (logits.channels != classes && logits.channels != kUnknown))
    throw Refused("the network makes " + shown(logits) + " of images " + shown(image) + ", expected (N, " + std::to_string(classes) +
                  "); give images of the size that it was built for");
  return budget.largest;
}

Network network_of(File& file, const Kernels& kernels) {
  Node node(file, file.tree, "network", 0);
  if (node.kind() != "PackedNetwork") throw Refused(node.what("kind") + ": expected a PackedNetwork");
  Network network{node.integer("channels", 1), node.integer("num_classes", 1), file.stored_bytes(), chain_of(file, node.node("body"))};
  node.expect_no_more();
  file.expect_all_taken();
  const Flushing flushing;
  network.body->complete(kernels, network.body->multiplies_bits());
  return network;
}

}  // namespace bnn
