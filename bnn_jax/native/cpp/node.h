// What a file states: a layer's fields and tensors, asked for by name.
#pragma once

#include <cmath>

#include "layers.h"

namespace bnn {
namespace {

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

}  // namespace
}  // namespace bnn
