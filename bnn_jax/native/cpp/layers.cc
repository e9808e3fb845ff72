#include "layers.h"

#include "containers.h"

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
