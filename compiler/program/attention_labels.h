// Equations of products, and which labels of attention's products are which.
#pragma once

#include <map>
#include <string>

#include "compiler/program/program.h"

namespace sscc {

// A one-to-one renaming of the letters of an equation.
class Renaming {
 public:
  // Makes `from` read `to`. False if it cannot.
  bool bind(const std::string& from, const std::string& to) {
    if (from.size() != to.size()) return false;
    for (size_t i = 0; i < from.size(); ++i) {
      const auto forth = forth_.try_emplace(from[i], to[i]).first, back = back_.try_emplace(to[i], from[i]).first;
      if (forth->second != to[i] || back->second != from[i]) return false;
    }
    return true;
  }
  // Letters that are not bound become ones that `taken` lacks.
  std::string renamed(const std::string& from, const std::string& taken) {
    std::string result;
    for (const char letter : from) {
      char to = 'a';
      while (!forth_.contains(letter) && (taken.find(to) != std::string::npos || back_.contains(to))) ++to;
      bind(std::string(1, letter), std::string(1, forth_.contains(letter) ? forth_.at(letter) : to));
      result += forth_.at(letter);
    }
    return result;
  }

 private:
  std::map<char, char> forth_, back_;
};

struct Equation {
  std::string in[2], out;
  explicit Equation(const Instruction& contraction) {
    const std::string& text = std::get<ContractExpression>(contraction.expression).equation;
    const size_t comma = text.find(','), arrow = text.find("->");
    in[0] = text.substr(0, comma);
    in[1] = text.substr(comma + 1, arrow - comma - 1);
    out = text.substr(arrow + 2);
  }
};

inline bool has_label(const std::string& labels, char label) { return labels.find(label) != std::string::npos; }

// Which labels the dimensions have: q, k, v, scores and out.
struct Labels {
  std::string q, k, v, scores, out;
  char key = 0;

  std::string equation() const { return q + "," + k + "," + v + "," + scores + "->" + out; }
  // Is every label a batch, a query, a key or summed over, as the kernel wants it?
  bool are_of_attention() const {
    if (has_label(q, key) || has_label(out, key) || !has_label(k, key) || !has_label(v, key)) return false;
    for (const char label : scores) {
      if (label == key) continue;
      const bool is_batch = has_label(k, label);
      if (!has_label(q, label) || !has_label(out, label) || is_batch != has_label(v, label)) return false;
    }
    for (const char label : q)
      if (!has_label(scores, label) && !has_label(k, label)) return false;
    for (const char label : k)
      if (!has_label(scores, label) && !has_label(q, label)) return false;
    for (const char label : v)
      if (!has_label(scores, label) && !has_label(out, label)) return false;
    for (const char label : out)
      if (!has_label(scores, label) && !has_label(v, label)) return false;
    return true;
  }
};

}  // namespace sscc
