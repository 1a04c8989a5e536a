// Text helpers: globs, "did you mean", sizes for people.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sscc {

// Whole-name glob: `*` any run of characters ('/' and '.' included), `?` one character, `[abc]`, `[a-z]`, `[!a]`. Case counts.
bool glob_match(std::string_view pattern, std::string_view name);

// The up to `count` candidates nearest to `word` by edit distance (only ones that resemble it), nearest first.
// A glob is compared with its metacharacters in place.
std::vector<std::string> nearest(std::string_view word, const std::vector<std::string>& candidates, size_t count = 3);

// "did you mean 'a', 'b' or 'c'?"; empty when there is nothing near.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

std::string join(const std::vector<std::string>& words, std::string_view separator);
std::string quoted(std::string_view text);  // 'text'
std::string human_bytes(int64_t bytes);     // "1.5 MiB"

}  // namespace sscc
