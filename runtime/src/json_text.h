// Text in JSON.
#pragma once

#include <cstdio>
#include <string>

namespace sscc::rt {

inline std::string json_string(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    if (static_cast<unsigned char>(c) >= 0x20) {
      result += c;
      continue;
    }
    char escape[8];
    std::snprintf(escape, sizeof escape, "\\u%04x", c);
    result += escape;
  }
  return result + '"';
}

}  // namespace sscc::rt
