// A JSON text as a tree whose values know where they stand, so that every diagnostic can name line, column and JSON pointer.
//
// The structure is read here, with positions and a limit on nesting (hostile input must not overflow the stack); strings and numbers are
// read by nlohmann/json. Two equal keys in one object are an error: RFC 8259 leaves their meaning open.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/support/diagnostics.h"

namespace sscc {

struct JsonValue {
  enum class Kind { null, boolean, integer, real, string, array, object };
  struct Key {
    std::string name;
    size_t begin = 0;
  };

  Kind kind = Kind::null;
  size_t begin = 0, end = 0;  // half-open, in bytes of the text
  bool boolean = false;
  int64_t integer = 0;
  double real = 0;  // also set for integers
  std::string string;
  std::vector<Key> keys;         // of an object, in the order of the text
  std::vector<JsonValue> items;  // of an array; of an object, items[i] belongs to keys[i]

  bool is(Kind k) const { return kind == k; }
  bool is_number() const { return kind == Kind::integer || kind == Kind::real; }
  // The value of a key, null if this is no object or has no such key.
  const JsonValue* find(std::string_view key) const;
  // "the string 'abc'", "the number 3", "an object": for messages.
  std::string description() const;
  // As compact JSON.
  std::string dump() const;
};

class JsonDocument {
 public:
  // Reads `text`. Malformed text is reported as `malformed_json`, and the document is then not ok().
  JsonDocument(std::string_view text, std::string file, Diagnostics& diagnostics);

  bool ok() const { return ok_; }
  const std::string& file() const { return file_; }
  const std::string& text() const { return text_; }
  JsonValue& root() { return root_; }
  const JsonValue& root() const { return root_; }

  // Where a byte of the text is. Columns count Unicode characters.
  Location position(size_t offset) const;
  // Where a value stands, with its pointer. A value that was substituted stands where the text that it replaced stood.
  Location locate(const JsonValue& value) const;
  // Where the key of items[index] stands; the pointer is that of its value.
  Location locate_key(const JsonValue& object, size_t index) const;

 private:
  std::string pointer_to(size_t begin, size_t end) const;

  std::string file_, text_;
  std::vector<size_t> line_starts_;
  JsonValue root_;
  bool ok_ = false;
};

}  // namespace sscc
