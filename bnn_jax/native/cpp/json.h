// JSON (RFC 8259), as strict as that, without keys that occur twice.
#pragma once

#include <stdint.h>

#include <cmath>
#include <limits>
#include <locale>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <unordered_set>
#include <vector>

#include "refused.h"

namespace bnn {

class Json {
 public:
  enum Kind { kNull, kBoolean, kNumber, kString, kArray, kObject };

  // Of at most `most` values.
  static Json parse(std::string_view text, size_t most);

  Kind kind = kNull;
  bool boolean = false;
  // A number as it stands there, or a string without its escapes, in UTF-8.
  std::string text;
  std::vector<Json> items;
  // Of an object, in the order in which they stand there; items are their values.
  std::vector<std::string> keys;

  // The value of a key, or nullptr.
  const Json* find(std::string_view key) const {
    for (size_t i = 0; i < keys.size(); ++i)
      if (keys[i] == key) return &items[i];
    return nullptr;
  }

  // An integer in [least, most]; `what` names it in the error.
  int64_t integer(const std::string& what, int64_t least, int64_t most) const {
    // So few digits that 64 bits hold them.
    const bool fits = kind == kNumber && text.size() < 19 && text.find_first_of(".eE") == std::string::npos;
    int64_t value = 0;
    for (size_t i = text[0] == '-'; fits && i < text.size(); ++i) value = 10 * value + (text[i] - '0');
    if (fits && text[0] == '-') value = -value;
    if (!fits || value < least || value > most)
      throw Refused(what + " is " + shown() + ", expected an integer from " + std::to_string(least) + " to " + std::to_string(most));
    return value;
  }

  double number(const std::string& what) const {
    double value = 0;
    if (kind == kNumber) {
      std::istringstream stream(text);
      stream.imbue(std::locale::classic());
      stream >> value;
    }
    if (kind != kNumber || !std::isfinite(value)) throw Refused(what + " is " + shown() + ", expected a finite number");
    return value;
  }

  // How an error shows it.
  std::string shown() const {
    switch (kind) {
      case kNull: return "null";
      case kBoolean: return boolean ? "true" : "false";
      case kNumber: return text.size() <= 40 ? text : text.substr(0, 40) + "...";
      case kString: return "'" + (text.size() <= 60 ? text : text.substr(0, 60) + "...") + "'";
      case kArray: return "a list of " + std::to_string(items.size());
      default: return "an object of " + std::to_string(items.size());
    }
  }
};

class JsonParser {
 public:
  JsonParser(std::string_view text, size_t most) : text_(text), most_(most) {}

  Json whole() {
    Json value = one(0);
    space();
    if (at_ != text_.size()) fail("something follows its end");
    return value;
  }

 private:
  static constexpr int kDepth = 128;

  [[noreturn]] void fail(const std::string& reason) const { throw Refused("no JSON: " + reason + " (byte " + std::to_string(at_) + ")"); }
  void space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) ++at_;
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char c) {
    if (peek() != c || at_ == text_.size()) return false;
    ++at_;
    return true;
  }
  void word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) fail("an unknown word");
    at_ += word.size();
  }

  Json one(int depth) {
    if (depth > kDepth) fail("nested too deeply");
    if (made_++ == most_) fail("more than " + std::to_string(most_) + " values");
    space();
    Json value;
    std::unordered_set<std::string> keys;
    switch (peek()) {
      case '{':
        ++at_;
        value.kind = Json::kObject;
        space();
        if (take('}')) return value;
        do {
          space();
          std::string key = string();
          if (!keys.insert(key).second) fail("a key occurs twice");
          space();
          if (!take(':')) fail("no colon follows a key");
          Json inner = one(depth + 1);
          value.keys.push_back(std::move(key));
          value.items.push_back(std::move(inner));
          space();
        } while (take(','));
        if (!take('}')) fail("an object does not end");
        return value;
      case '[':
        ++at_;
        value.kind = Json::kArray;
        space();
        if (take(']')) return value;
        do {
          value.items.push_back(one(depth + 1));
          space();
        } while (take(','));
        if (!take(']')) fail("a list does not end");
        return value;
      case '"':
        value.kind = Json::kString;
        value.text = string();
        return value;
      case 't':
        word("true");
        value.kind = Json::kBoolean, value.boolean = true;
        return value;
      case 'f':
        word("false");
        value.kind = Json::kBoolean;
        return value;
      case 'n': word("null"); return value;
      default: return number();
    }
  }

  Json number() {
    const size_t start = at_;
    const auto digits = [this] {
      const size_t from = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      if (at_ == from) fail("a digit is missing");
    };
    take('-');
    if (!take('0')) digits();
    if (take('.')) digits();
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (!take('+')) take('-');
      digits();
    }
    Json value;
    value.kind = Json::kNumber;
    value.text = std::string(text_.substr(start, at_ - start));
    return value;
  }

  uint32_t hexadecimal() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) fail("an escape has no four hexadecimal digits");
      value = value << 4 | static_cast<uint32_t>(digit);
    }
    return value;
  }

  static void append(std::string& to, uint32_t point) {
    if (point < 0x80) {
      to += static_cast<char>(point);
    } else if (point < 0x800) {
      to += static_cast<char>(0xc0 | point >> 6);
      to += static_cast<char>(0x80 | (point & 63));
    } else if (point < 0x10000) {
      to += static_cast<char>(0xe0 | point >> 12);
      to += static_cast<char>(0x80 | (point >> 6 & 63));
      to += static_cast<char>(0x80 | (point & 63));
    } else {
      to += static_cast<char>(0xf0 | point >> 18);
      to += static_cast<char>(0x80 | (point >> 12 & 63));
      to += static_cast<char>(0x80 | (point >> 6 & 63));
      to += static_cast<char>(0x80 | (point & 63));
    }
  }

  std::string string() {
    if (!take('"')) fail("no string where one is expected");
    std::string value;
    for (;;) {
      if (at_ == text_.size()) fail("a string does not end");
      const uint8_t c = static_cast<uint8_t>(text_[at_]);
      if (c == '"') break;
      if (c < 0x20) fail("a control character in a string");
      if (c == '\\') {
        ++at_;
        const char escaped = peek();
        ++at_;
        switch (escaped) {
          case '"': case '\\': case '/': value += escaped; break;
          case 'b': value += '\b'; break;
          case 'f': value += '\f'; break;
          case 'n': value += '\n'; break;
          case 'r': value += '\r'; break;
          case 't': value += '\t'; break;
          case 'u': {
            uint32_t point = hexadecimal();
            if (point >= 0xd800 && point < 0xdc00) {
              if (!take('\\') || !take('u')) fail("half a surrogate pair");
              const uint32_t low = hexadecimal();
              if (low < 0xdc00 || low > 0xdfff) fail("half a surrogate pair");
              point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
            } else if (point >= 0xdc00 && point < 0xe000) {
              fail("half a surrogate pair");
            }
            append(value, point);
            break;
          }
          default: fail("an unknown escape");
        }
        continue;
      }
      utf8(value);
    }
    ++at_;
    return value;
  }

  // One character of UTF-8, checked.
  void utf8(std::string& to) {
    const auto unit = [this](size_t i) { return at_ + i < text_.size() ? static_cast<uint8_t>(text_[at_ + i]) : 0u; };
    const uint32_t first = unit(0);
    const size_t length = first < 0x80 ? 1 : first >> 5 == 6 ? 2 : first >> 4 == 14 ? 3 : first >> 3 == 30 ? 4 : 0;
    if (length == 0) fail("no UTF-8");
    uint32_t point = length == 1 ? first : first & (0x7fu >> length);
    for (size_t i = 1; i < length; ++i) {
      if (unit(i) >> 6 != 2) fail("no UTF-8");
      point = point << 6 | (unit(i) & 63);
    }
    static const uint32_t kLeast[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (point < kLeast[length] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) fail("no UTF-8");
    to.append(text_.substr(at_, length));
    at_ += length;
  }

  std::string_view text_;
  size_t most_, at_ = 0, made_ = 0;
};

inline Json Json::parse(std::string_view text, size_t most) { return JsonParser(text, most).whole(); }

}  // namespace bnn
