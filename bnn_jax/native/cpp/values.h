// What layers pass to each other, numbers or words of signs, and the mean of numbers in the order of docs/format.md.
#pragma once

#include "layers.h"
#include "threads.h"

namespace bnn {
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

}  // namespace
}  // namespace bnn
