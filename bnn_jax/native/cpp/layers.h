// A packed network as layers that answer for themselves, as in bnn_jax/nn/packed: what each makes of a shape, whether it keeps
// order or moves signs, and what it computes. A network is made once and then only read; a call has its own memory.
#pragma once

#include <stdint.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "file.h"
#include "instructions.h"
#include "products.h"

namespace bnn {

// Of one image: height, width and channels, or after flattening channels alone. kUnknown for what is not known yet: a file may
// not say how large its images are.
constexpr int64_t kUnknown = -1;
struct Shape {
  bool flat;
  int64_t height, width, channels;
  bool known() const { return height >= 0 && width >= 0 && channels >= 0; }
  int64_t pixels() const { return height * width; }
  int64_t numbers() const { return height * width * channels; }
};
std::string shown(const Shape& shape);

// How much the layers may make of one image (docs/format.md, bounds): numbers of a map, and of all maps, for each number of
// the image and each byte of the tensors.
class Budget {
 public:
  // Nothing is counted where the image's shape is not known.
  Budget(const Shape& image, int64_t stored_bytes) : counts_(image.known()) {
    if (counts_) explained_ = static_cast<double>(image.numbers() + stored_bytes), largest = image.numbers();
  }
  // Counts a map, `times` as large as its shape. Throws Refused.
  void count(const Shape& map, int64_t times = 1);

  // Numbers of the largest map so far.
  int64_t largest = 0;

 private:
  bool counts_;
  double explained_ = 0, total_ = 0;
};

// Memory that one call after the other uses. A block goes back when its holder is gone.
class Memory {
 public:
  class Block {
   public:
    Block() = default;
    Block(Memory* memory, size_t place, char* at) : memory_(memory), place_(place), at_(at) {}
    Block(Block&& other) noexcept { swap(other); }
    Block& operator=(Block&& other) noexcept {
      swap(other);
      return *this;
    }
    ~Block() {
      if (memory_ != nullptr) memory_->held_[place_].used = false;
    }
    explicit operator bool() const { return memory_ != nullptr; }
    template <typename T>
    T* as() const {
      return reinterpret_cast<T*>(at_);
    }

   private:
    void swap(Block& other) {
      std::swap(memory_, other.memory_), std::swap(place_, other.place_), std::swap(at_, other.at_);
    }
    Memory* memory_ = nullptr;
    size_t place_ = 0;
    char* at_ = nullptr;
  };

  // For so many numbers of 4 bytes, aligned to 64 bytes: the smallest block that is free and large enough, or a new one.
  Block numbers(int64_t count);

 private:
  struct Held {
    std::unique_ptr<char[]> memory;
    char* at;
    size_t size;
    bool used;
  };
  std::vector<Held> held_;
};

// What a call has: the kernels of its instruction set, threads, memory.
struct Context {
  const Kernels& kernels;
  Pool& pool;
  Memory& memory;
};

// A batch between two layers: floats, or only their signs, as words along the channels. Where it holds no block, another owns
// the numbers, and they are not to be changed.
struct Value {
  int64_t images;
  Shape shape;
  bool signs;
  const void* data;
  Memory::Block block;

  const float* floats() const { return static_cast<const float*>(data); }
  const uint32_t* words() const { return static_cast<const uint32_t*>(data); }
  int64_t rows() const { return images * shape.pixels(); }
  int64_t count() const { return images * shape.numbers(); }
  Value borrowed() const { return {images, shape, signs, data, {}}; }
};

// How a product's output follows from its integers: integer * scale + bias.
struct IntegerForm {
  int64_t largest, channels;
  const float *scale, *bias;
};

class Layer {
 public:
  virtual ~Layer() = default;

  // What it makes of an image of this shape, as far as that is known, having counted the maps that it makes before. Throws
  // Refused where the image does not fit, or a map is too large.
  virtual Shape shape(const Shape& x, Budget& budget) const = 0;
  virtual Value run(const Context& context, Value x) const = 0;

  virtual bool multiplies_bits() const { return false; }
  // Once the network is complete: lays weights out and finds thresholds. in_order: whether sums of real inputs go in the order
  // of training (docs/format.md).
  virtual void complete(const Kernels&, bool /*in_order*/) {}

  virtual std::optional<IntegerForm> integer_form() const { return std::nullopt; }
  virtual bool reads_only_signs() const { return false; }
  virtual bool gives_signs() const { return false; }
  virtual Value signs_of(const Context&, Value) const { throw Refused("a layer gives no signs"); }
  // Per channel 1, -1 or 0 where the output rises, falls or is constant as the input rises; empty where it does neither.
  virtual std::vector<float> direction(int64_t) const { return {}; }
  virtual bool moves_signs() const { return false; }
  virtual bool keeps_channels() const { return true; }
  // Of one pixel, in place; only where there is a direction.
  virtual void pointwise(const Kernels&, float*, int64_t) const {}
  virtual Value on_signs(const Context&, Value, const uint32_t* /*highest*/) const { throw Refused("a layer moves no signs"); }
  // The signs of the integers against thresholds.
  virtual Value compared(const Context&, Value, const int32_t* /*thresholds*/, const uint32_t* /*flip*/) const {
    throw Refused("a layer has no integers");
  }
};

using Layers = std::vector<std::unique_ptr<Layer>>;

struct Network {
  int64_t channels, classes, stored_bytes;
  std::unique_ptr<Layer> body;

  // Numbers of the largest map of an image of this size, which may be unknown. Throws Refused where it does not fit.
  int64_t expect_fits(int64_t height, int64_t width) const;
};

// While there is one, the processor takes subnormal numbers for 0, as XLA does: in the thread that made it.
class Flushing {
 public:
  Flushing();
  ~Flushing();
  Flushing(const Flushing&) = delete;
  Flushing& operator=(const Flushing&) = delete;

 private:
  uint64_t before_;
};

// The network of a file, whose tensors stay where they are. Throws Refused.
Network network_of(File& file, const Kernels& kernels);

}  // namespace bnn
