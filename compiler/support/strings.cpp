#include "compiler/support/strings.h"

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <utility>

namespace sscc {

namespace {

// One element of a glob that consumes one character: `pattern[at]` is not '*'. Sets `next` to the element after it.
bool element_matches(std::string_view pattern, size_t at, char c, size_t& next) {
  next = at + 1;
  if (pattern[at] == '?') return true;
  if (pattern[at] != '[') return pattern[at] == c;

  size_t i = at + 1;
  bool negated = i < pattern.size() && pattern[i] == '!';
  if (negated) ++i;
  size_t first = i;
  bool found = false;
  // A ']' that stands first is itself a member of the class.
  while (i < pattern.size() && (pattern[i] != ']' || i == first)) {
    char low = pattern[i], high = low;
    if (i + 2 < pattern.size() && pattern[i + 1] == '-' && pattern[i + 2] != ']') {
      high = pattern[i + 2];
      i += 2;
    }
    found = found || (low <= c && c <= high);
    ++i;
  }
  if (i >= pattern.size()) return c == '[';  // no closing bracket: an ordinary character
  next = i + 1;
  return found != negated;
}

// Letters to insert, remove, replace or exchange with their neighbour (optimal string alignment).
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before_last, last(b.size() + 1), row(b.size() + 1);
  std::iota(last.begin(), last.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) row[j] = std::min(row[j], before_last[j - 2] + 1);
    }
    before_last = last;
    last = row;
  }
  return last[b.size()];
}

}  // namespace

bool glob_match(std::string_view pattern, std::string_view name) {
  // Greedy with one point to fall back to: after a later '*' an earlier one never needs to grow, so the time is O(pattern x name).
  size_t p = 0, n = 0;
  size_t star = std::string_view::npos, star_name = 0;
  while (n < name.size()) {
    size_t next = 0;
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_name = n;
    } else if (p < pattern.size() && element_matches(pattern, p, name[n], next)) {
      p = next;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++star_name;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::vector<std::string> nearest(std::string_view word, const std::vector<std::string>& candidates, size_t count) {
  constexpr size_t longest = 200;  // the work grows with the product of the lengths
  if (word.size() > longest) return {};
  std::vector<std::pair<size_t, std::string_view>> scored;
  for (const std::string& candidate : candidates) {
    if (candidate.empty() || candidate == word || candidate.size() > longest) continue;
    // Half of the letters may differ; in a short word one may.
    size_t allowed = std::max<size_t>(1, std::max(word.size(), candidate.size()) / 2);
    size_t difference = word.size() > candidate.size() ? word.size() - candidate.size() : candidate.size() - word.size();
    if (difference > allowed) continue;
    size_t distance = edit_distance(word, candidate);
    if (distance <= allowed && distance < std::max(word.size(), candidate.size())) scored.emplace_back(distance, candidate);
  }
  std::stable_sort(scored.begin(), scored.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> result;
  for (const auto& [distance, candidate] : scored) {
    // Beside a near one, those far away are no help.
    if (result.size() == count || distance > scored.front().first + 1) break;
    if (std::find(result.begin(), result.end(), candidate) == result.end()) result.emplace_back(candidate);
  }
  return result;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
  std::vector<std::string> near = nearest(word, candidates);
  if (near.empty()) return "";
  std::string text = "did you mean ";
  for (size_t i = 0; i < near.size(); ++i) {
    if (i > 0) text += i + 1 == near.size() ? " or " : ", ";
    text += quoted(near[i]);
  }
  return text + "?";
}

std::string join(const std::vector<std::string>& words, std::string_view separator) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += separator;
    text += words[i];
  }
  return text;
}

std::string quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

std::string human_bytes(int64_t bytes) {
  static const char* const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (unit + 1 < std::size(units) && (value >= 1024 || value <= -1024)) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes");
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %s", value, units[unit]);
  return text;
}

}  // namespace sscc
