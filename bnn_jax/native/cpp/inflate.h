// What a file's description of its network is wrapped in: base64 (RFC 4648) round a zlib stream (RFC 1950, 1951).
#pragma once

#include <stdint.h>

#include <string>
#include <string_view>

#include "refused.h"

namespace bnn {

inline std::string from_base64(std::string_view text) {
  if (text.size() % 4 != 0) throw Refused("its length is no multiple of 4");
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3);
  for (size_t i = 0; i < text.size(); i += 4) {
    uint32_t all = 0;
    int there = 0;
    for (int k = 0; k < 4; ++k) {
      const char c = text[i + k];
      const bool last = i + 4 == text.size();
      int value = 0;
      if (c >= 'A' && c <= 'Z') value = c - 'A';
      else if (c >= 'a' && c <= 'z') value = c - 'a' + 26;
      else if (c >= '0' && c <= '9') value = c - '0' + 52;
      else if (c == '+') value = 62;
      else if (c == '/') value = 63;
      else if (c == '=' && last && k >= 2 && (k == 3 || text[i + 3] == '=')) value = -1;
      else throw Refused("a character is not base64's");
      all = all << 6 | (value < 0 ? 0 : static_cast<uint32_t>(value));
      there += value >= 0;
    }
    for (int k = 0; k < there - 1; ++k) bytes += static_cast<char>(all >> (16 - 8 * k));
  }
  return bytes;
}

// The content of a zlib stream, of at most `most` bytes.
class Inflate {
 public:
  Inflate(std::string_view stream, size_t most) : in_(stream), most_(most) {}

  std::string content() {
    const uint32_t method = byte(), flags = byte();
    if ((method & 15) != 8 || method >> 4 > 7 || (256 * method + flags) % 31 != 0 || (flags & 32) != 0)
      throw Refused("it is no zlib stream");
    bool last = false;
    while (!last) {
      last = bits(1) != 0;
      switch (bits(2)) {
        case 0: stored(); break;
        case 1: fixed(); break;
        case 2: dynamic(); break;
        default: throw Refused("a block of its zlib stream is of no known kind");
      }
    }
    held_ = 0, count_ = 0;  // What is left of a byte is filled up.
    uint32_t stated = 0, a = 1, b = 0;
    for (int i = 0; i < 4; ++i) stated = stated << 8 | byte();
    for (const char c : out_) a = (a + static_cast<uint8_t>(c)) % 65521, b = (b + a) % 65521;
    if (stated != (b << 16 | a)) throw Refused("the checksum of its zlib stream differs");
    if (at_ != in_.size()) throw Refused("something follows its zlib stream");
    return std::move(out_);
  }

 private:
  // A canonical Huffman code: how many codes there are of each length, and the symbols in their order.
  struct Code {
    uint16_t count[16] = {}, symbol[288] = {};
  };

  uint32_t byte() {
    if (at_ == in_.size()) throw Refused("its zlib stream ends too early");
    return static_cast<uint8_t>(in_[at_++]);
  }

  uint32_t bits(int n) {
    while (count_ < n) held_ |= byte() << count_, count_ += 8;
    const uint32_t value = held_ & ((1u << n) - 1);
    held_ >>= n, count_ -= n;
    return value;
  }

  void put(char c) {
    if (out_.size() == most_) throw Refused("it is larger than " + std::to_string(most_) + " bytes");
    out_ += c;
  }

  static Code code_of(const uint8_t* lengths, int n) {
    Code code;
    for (int i = 0; i < n; ++i) ++code.count[lengths[i]];
    code.count[0] = 0;
    int left = 1;
    uint16_t start[17] = {};
    for (int length = 1; length < 16; ++length) {
      left = 2 * left - code.count[length];
      if (left < 0) throw Refused("a code of its zlib stream has too many words");
      start[length + 1] = static_cast<uint16_t>(start[length] + code.count[length]);
    }
    for (int i = 0; i < n; ++i)
      if (lengths[i] != 0) code.symbol[start[lengths[i]]++] = static_cast<uint16_t>(i);
    return code;
  }

  int decode(const Code& code) {
    int word = 0, first = 0, index = 0;
    for (int length = 1; length < 16; ++length) {
      word |= static_cast<int>(bits(1));
      const int count = code.count[length];
      if (word - first < count) return code.symbol[index + word - first];
      index += count, first = 2 * (first + count), word *= 2;
    }
    throw Refused("its zlib stream has a word that no code has");
  }

  void stored() {
    held_ = 0, count_ = 0;
    uint32_t length = byte();
    length |= byte() << 8;
    uint32_t turned = byte();
    turned |= byte() << 8;
    if (length != (turned ^ 0xffff)) throw Refused("a stored block of its zlib stream contradicts itself");
    for (; length > 0; --length) put(static_cast<char>(byte()));
  }

  void fixed() {
    uint8_t lengths[288 + 30];
    for (int i = 0; i < 288; ++i) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    for (int i = 0; i < 30; ++i) lengths[288 + i] = 5;
    symbols(code_of(lengths, 288), code_of(lengths + 288, 30));
  }

  void dynamic() {
    static const uint8_t kOrder[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    const int literals = static_cast<int>(bits(5)) + 257, distances = static_cast<int>(bits(5)) + 1;
    const int lengths_of = static_cast<int>(bits(4)) + 4;
    if (literals > 286 || distances > 30) throw Refused("a code of its zlib stream is too large");
    uint8_t lengths[286 + 30] = {};
    for (int i = 0; i < lengths_of; ++i) lengths[kOrder[i]] = static_cast<uint8_t>(bits(3));
    const Code code = code_of(lengths, 19);
    for (uint8_t& length : lengths) length = 0;
    for (int i = 0; i < literals + distances;) {
      const int symbol = decode(code);
      if (symbol < 16) {
        lengths[i++] = static_cast<uint8_t>(symbol);
        continue;
      }
      if (symbol == 16 && i == 0) throw Refused("a code of its zlib stream repeats nothing");
      const uint8_t length = symbol == 16 ? lengths[i - 1] : 0;
      int times = symbol == 16 ? 3 + static_cast<int>(bits(2)) : symbol == 17 ? 3 + static_cast<int>(bits(3)) : 11 + static_cast<int>(bits(7));
      if (i + times > literals + distances) throw Refused("a code of its zlib stream is too long");
      for (; times > 0; --times) lengths[i++] = length;
    }
    symbols(code_of(lengths, literals), code_of(lengths + literals, distances));
  }

  void symbols(const Code& literals, const Code& distances) {
    static const uint16_t kLength[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                         31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t kMore[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static const uint16_t kDistance[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                           193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    for (;;) {
      const int symbol = decode(literals);
      if (symbol == 256) return;
      if (symbol < 256) {
        put(static_cast<char>(symbol));
        continue;
      }
      if (symbol > 285) throw Refused("its zlib stream has a length that is none");
      size_t length = kLength[symbol - 257] + bits(kMore[symbol - 257]);
      const int distance = decode(distances);
      if (distance > 29) throw Refused("its zlib stream has a distance that is none");
      const size_t back = kDistance[distance] + bits(distance < 2 ? 0 : distance / 2 - 1);
      if (back > out_.size()) throw Refused("its zlib stream repeats what comes before its beginning");
      for (; length > 0; --length) put(out_[out_.size() - back]);
    }
  }

  std::string_view in_;
  size_t most_, at_ = 0;
  uint32_t held_ = 0;
  int count_ = 0;
  std::string out_;
};

}  // namespace bnn
