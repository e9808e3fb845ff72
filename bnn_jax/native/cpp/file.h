// A file of a packed network as docs/format.md has it: its tensors, and the tree that says how they fit together. All that a file
// states is checked before it is believed; its size bounds what is allocated, but for the text and the values of its tree (at most
// kMostText bytes and kMostValues values).
#pragma once

#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "inflate.h"
#include "json.h"
#include "refused.h"
#include "sha256.h"

namespace bnn {

// The bounds of docs/format.md.
constexpr size_t kMostText = 1 << 22;     // Bytes of the header, and of the tree.
constexpr size_t kMostValues = 1 << 18;   // Values of the header, and of a tree of kMostNodes.
constexpr int kMostNodes = 8192, kDeepest = 64;
constexpr int64_t kMostExtent = 1 << 24;  // Channels, filters, groups; terms of a sum of signs.
constexpr int64_t kMostWindow = 4096;     // Size, stride, padding, dilation and extent of a window.
constexpr int64_t kMostSide = 8192;       // Of the images that a preprocessing states.

struct Tensor {
  bool floats;
  std::vector<int64_t> shape;
  // In the file's bytes; numbers of the machine, which is little-endian (runtime.cc).
  const char* bytes;
  size_t size;
  bool taken = false;
};

inline std::string shown(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + "]";
}

inline bool all_finite(const float* numbers, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    memcpy(&bits, numbers + i, sizeof(bits));
    bits &= 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return largest < 0x7f800000u;
}

// A file's bytes, laid so that the tensors, behind the header, begin at a multiple of 64.
class Bytes {
 public:
  // The first 8 bytes, as far as there are so many, say how long the header is.
  void begin(const char* first, size_t n, size_t size) {
    uint64_t header = 0;
    if (n == 8) memcpy(&header, first, 8);
    reserve(size + 128);
    const size_t tensors = static_cast<size_t>((8 + header) % 64);
    start_ = (64 - reinterpret_cast<uintptr_t>(memory_.get()) % 64) % 64 + (64 - tensors) % 64;
    append(first, n);
  }
  void append(const char* from, size_t n) {
    if (start_ + size_ + n > room_) {
      Bytes larger;
      larger.reserve(2 * room_ + n + 128);
      // The same place modulo 64.
      larger.start_ = (64 + (reinterpret_cast<uintptr_t>(memory_.get()) + start_) % 64 - reinterpret_cast<uintptr_t>(larger.memory_.get()) % 64) % 64;
      memcpy(larger.memory_.get() + larger.start_, memory_.get() + start_, size_);
      larger.size_ = size_;
      std::swap(*this, larger);
    }
    memcpy(memory_.get() + start_ + size_, from, n);
    size_ += n;
  }
  std::string_view view() const { return {memory_.get() + start_, size_}; }

 private:
  void reserve(size_t room) { memory_.reset(new char[room]), room_ = room; }
  std::unique_ptr<char[]> memory_;
  size_t room_ = 0, start_ = 0, size_ = 0;
};

class File {
 public:
  // bytes: laid by Bytes, there as long as the tensors are read.
  explicit File(std::string_view bytes) {
    if (bytes.size() < 8) throw Refused("it is shorter than 8 bytes, expected a safetensors file");
    uint64_t length = 0;
    memcpy(&length, bytes.data(), 8);
    if (length > bytes.size() - 8)
      throw Refused("its header is stated to have " + std::to_string(length) + " bytes, of a file of " + std::to_string(bytes.size()) + ": it is truncated, or no safetensors file");
    if (length > kMostText) throw Refused("its header has " + std::to_string(length) + " bytes, expected at most " + std::to_string(kMostText));
    Json header;
    try {
      header = Json::parse(bytes.substr(8, length), kMostValues);
    } catch (const Refused& error) {
      throw Refused(std::string("its header is ") + error.what() + ": it is truncated, or no safetensors file");
    }
    if (header.kind != Json::kObject) throw Refused("its header is no object: it is no safetensors file");
    read_metadata(header);
    read_tensors(header, bytes.substr(8 + length));
    if (metadata_.count("sha256") == 0 || metadata_["sha256"] != digest())
      throw Refused("it has been altered since it was saved (its checksum differs); save it again");
    if (metadata_.count("module") > 0)
      throw Refused("it holds the arrays of a user's own module, whose code it does not hold; load it in bnn_jax, with into");
    if (metadata_.count("network") == 0) throw Refused("it holds no network");
    try {
      tree = Json::parse(Inflate(from_base64(metadata_["network"]), kMostText).content(), kMostValues);
    } catch (const Refused& error) {
      throw Refused(std::string("its description of the network cannot be read: ") + error.what());
    }
  }

  // The tensor of a field, which no other field may have.
  Tensor& tensor(const std::string& name, const std::string& what) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) throw Refused(what + " is tensor '" + name + "', which is not there");
    if (found->second.taken) throw Refused(what + " is tensor '" + name + "', which another field has as well");
    found->second.taken = true;
    if (found->second.floats && !all_finite(reinterpret_cast<const float*>(found->second.bytes), static_cast<int64_t>(found->second.size / 4)))
      throw Refused(what + ": some numbers are NaN or infinite, expected finite ones");
    return found->second;
  }

  void expect_all_taken() const {
    for (const auto& [name, tensor] : tensors_)
      if (!tensor.taken) throw Refused("tensor '" + name + "' belongs to no layer");
  }

  // Counts a node of the tree, at so many objects and lists from the root.
  void expect_node(const std::string& path, int depth) {
    if (depth > kDeepest || ++nodes_ > kMostNodes)
      throw Refused(path + ": expected at most " + std::to_string(kMostNodes) + " objects and lists, " +
                    std::to_string(kDeepest) + " within each other");
  }

  // Of all tensors.
  int64_t stored_bytes() const {
    int64_t bytes = 0;
    for (const auto& [name, tensor] : tensors_) bytes += static_cast<int64_t>(tensor.size);
    return bytes;
  }

  // How images are prepared, JSON; empty where the file does not say.
  std::string preprocessing() const {
    const auto found = metadata_.find("preprocessing");
    return found == metadata_.end() ? std::string() : found->second;
  }

  Json tree;

 private:
  void read_metadata(const Json& header) {
    const Json* metadata = header.find("__metadata__");
    if (metadata == nullptr || metadata->kind != Json::kObject) throw Refused("it has no metadata: it was not written by bnn_jax.save");
    for (size_t i = 0; i < metadata->keys.size(); ++i) {
      if (metadata->items[i].kind != Json::kString) throw Refused("its metadata '" + metadata->keys[i] + "' is no string");
      metadata_[metadata->keys[i]] = metadata->items[i].text;
    }
    if (metadata_.count("format") == 0 || metadata_["format"] != "bnn_jax")
      throw Refused("it is not a bnn_jax network, expected a file written by bnn_jax.save");
    const std::string version = metadata_.count("version") ? metadata_["version"] : "";
    bool fits = !version.empty() && version.size() <= 9;
    for (const char c : version) fits = fits && c >= '0' && c <= '9';
    if (!fits || std::stol(version) != 1) throw Refused("it has format version '" + version.substr(0, 20) + "', this library reads version 1; take a newer one");
  }

  void read_tensors(const Json& header, std::string_view data) {
    std::vector<std::pair<uint64_t, uint64_t>> spans;
    for (size_t i = 0; i < header.keys.size(); ++i) {
      const std::string& name = header.keys[i];
      if (name == "__metadata__") continue;
      const Json& stated = header.items[i];
      const Json *dtype = stated.find("dtype"), *shape = stated.find("shape"), *offsets = stated.find("data_offsets");
      if (dtype == nullptr || shape == nullptr || offsets == nullptr || stated.keys.size() != 3 || dtype->kind != Json::kString ||
          shape->kind != Json::kArray || offsets->kind != Json::kArray || offsets->items.size() != 2)
        throw Refused("tensor '" + name + "' is not described by dtype, shape and data_offsets");
      if (dtype->text != "F32" && dtype->text != "U32")
        throw Refused("tensor '" + name + "' has dtype " + dtype->shown() + ", expected 'F32' or 'U32'");
      Tensor tensor{dtype->text == "F32", {}, nullptr, 0};
      uint64_t numbers = 1;
      if (shape->items.size() > 8) throw Refused("tensor '" + name + "' has more than 8 axes");
      for (const Json& extent : shape->items) {
        const int64_t along = extent.integer("a shape of tensor '" + name + "'", 0, INT64_C(1) << 40);
        tensor.shape.push_back(along);
        if (along != 0 && numbers > (UINT64_C(1) << 40) / static_cast<uint64_t>(along))
          throw Refused("tensor '" + name + "' of shape " + shown(tensor.shape) + " is larger than the file");
        numbers *= static_cast<uint64_t>(along);
      }
      const int64_t size = static_cast<int64_t>(data.size());
      const int64_t begin = offsets->items[0].integer("an offset of tensor '" + name + "'", 0, size);
      const int64_t end = offsets->items[1].integer("an offset of tensor '" + name + "'", begin, size);
      if (static_cast<uint64_t>(end - begin) != 4 * numbers || begin % 4 != 0)
        throw Refused("tensor '" + name + "' of shape " + shown(tensor.shape) + " has " + std::to_string(end - begin) + " bytes");
      tensor.bytes = data.data() + begin, tensor.size = static_cast<size_t>(end - begin);
      spans.emplace_back(begin, end);
      tensors_.emplace(name, std::move(tensor));
    }
    std::sort(spans.begin(), spans.end());
    uint64_t reached = 0;
    for (const auto& [begin, end] : spans) {
      if (begin != reached) throw Refused("its tensors overlap, or leave gaps");
      reached = end;
    }
    if (reached != data.size()) throw Refused("its tensors end at byte " + std::to_string(reached) + " of " + std::to_string(data.size()));
  }

  // A string as Python's json.dumps writes it.
  static std::string quoted(const std::string& text) {
    static const char* kHex = "0123456789abcdef";
    std::string to = "\"";
    const auto unit = [&to](uint32_t value) {
      to += "\\u";
      for (int shift = 12; shift >= 0; shift -= 4) to += kHex[value >> shift & 15];
    };
    for (size_t i = 0; i < text.size();) {
      const uint32_t first = static_cast<uint8_t>(text[i]);
      const size_t length = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : 4;
      uint32_t point = length == 1 ? first : first & (0x7fu >> length);
      for (size_t k = 1; k < length; ++k) point = point << 6 | (static_cast<uint8_t>(text[i + k]) & 63);
      i += length;
      switch (point) {
        case '"': to += "\\\""; break;
        case '\\': to += "\\\\"; break;
        case '\n': to += "\\n"; break;
        case '\r': to += "\\r"; break;
        case '\t': to += "\\t"; break;
        case '\f': to += "\\f"; break;
        case '\b': to += "\\b"; break;
        default:
          if (point >= 0x10000)
            unit(0xd800 + ((point - 0x10000) >> 10)), unit(0xdc00 + ((point - 0x10000) & 0x3ff));
          else if (point < 0x20 || point > 0x7e)
            unit(point);
          else
            to += static_cast<char>(point);
      }
    }
    return to + "\"";
  }

  std::string digest() const {
    Sha256 sha;
    std::string stated = "{";
    for (const auto& [key, value] : metadata_)
      if (key != "sha256") stated += (stated.size() > 1 ? ", " : "") + quoted(key) + ": " + quoted(value);
    sha.update(stated + "}");
    for (const auto& [name, tensor] : tensors_) {
      std::string shape = "(";
      for (size_t i = 0; i < tensor.shape.size(); ++i) shape += (i > 0 ? ", " : "") + std::to_string(tensor.shape[i]);
      sha.update(name + (tensor.floats ? " <f4 " : " <u4 ") + shape + (tensor.shape.size() == 1 ? ",)" : ")"));
      sha.update(std::string_view(tensor.bytes, tensor.size));
    }
    return sha.digest();
  }

  // std::string's order of bytes is that of UTF-8's characters.
  std::map<std::string, std::string> metadata_;
  std::map<std::string, Tensor> tensors_;
  int nodes_ = 0;
};

}  // namespace bnn
