#include "compiler/codegen/print_ranks.h"

#include <map>
#include <set>

#include "compiler/codegen/print_instruction.h"
#include "compiler/codegen/source_text.h"
#include "compiler/program/index_bounds.h"

namespace sscc {
namespace {

using Bounds = std::map<std::string, int64_t>;

std::string tensor_rows(const char* name, const std::vector<FileTensor>& tensors, const Bounds& bounds = {}) {
  if (tensors.empty()) return "";
  std::string text = std::string("const TensorRow ") + name + "[] = {\n";
  for (const FileTensor& tensor : tensors) {
    std::string shape;
    for (const int64_t length : tensor.shape) shape += (shape.empty() ? "" : "x") + std::to_string(length);
    text +=
        "    {" + string_literal(tensor.name) + ", DType::" + word_of(tensor.dtype) + ", \"" + shape + "\", " + (tensor.trainable ? "true" : "false");
    if (const auto bound = bounds.find(tensor.name); bound != bounds.end()) text += ", " + std::to_string(bound->second);
    text += "},\n";
  }
  return text + "};\n\n";
}

std::string field(const char* name, const std::vector<FileTensor>& tensors) {
  return std::string("      .") + name + " = " + (tensors.empty() ? "{}" : std::string("file_tensors(") + name + ")") + ",\n";
}

// "0:4, 8:16|24:32"
std::string region_text(const Region& region) {
  std::string text;
  for (size_t d = 0; d < region.rank(); ++d) {
    if (d) text += ", ";
    if (region.dim(d).empty()) text += "0:0";
    bool first = true;
    for (const Interval& interval : region.dim(d).list()) {
      text += (first ? "" : "|") + std::to_string(interval.begin) + ":" + std::to_string(interval.end);
      first = false;
    }
  }
  return text;
}

template <class Values>
std::string spaced(const Values& values) {
  std::string text;
  for (const auto value : values) text += (text.empty() ? "" : " ") + std::to_string(value);
  return text;
}

std::string group_text(const std::vector<std::vector<int32_t>>& groups) {
  std::string text;
  for (const auto& group : groups) text += (text.empty() ? "" : " | ") + spaced(group);
  return text;
}

}  // namespace

std::string print_model(const Programs& programs, const std::string& version) {
  std::string text = "// " + comment_text(programs.model) + ": the tensors that files hold, in whole. Written by sscc " + version + ".\n";
  text += "#include \"sscc_rt/bundle.h\"\n#include \"sscc_rt/tables.h\"\n\nusing namespace sscc::rt;\n\nnamespace {\n\n";
  const Bounds bounds = index_bounds(programs);
  text += tensor_rows("parameters", programs.parameters) + tensor_rows("constants", programs.constants) +
          tensor_rows("inputs", programs.inputs, bounds) + tensor_rows("labels", programs.labels, bounds) + tensor_rows("outputs", programs.outputs);
  text += "}  // namespace\n\nModelInfo sscc_model() {\n  return {\n";
  text += "      .name = " + string_literal(programs.model) + ",\n";
  text += std::string("      .training = ") + (programs.training ? "true" : "false") + ",\n";
  text += "      .tokens_per_step = " + std::to_string(programs.tokens_per_step) + ",\n";
  text += "      .flops_per_step = " + std::to_string(programs.model_flops_per_step) + ",\n";
  text += "      .precision = DType::" + std::string(word_of(programs.precision)) + ",\n";
  text += field("parameters", programs.parameters) + field("constants", programs.constants) + field("inputs", programs.inputs) +
          field("labels", programs.labels) + field("outputs", programs.outputs);
  return text + "  };\n}\n";
}

std::string print_ranks(const Programs& programs, Target target, const std::string& version) {
  std::map<std::string, size_t> index_of;
  std::vector<std::string> regions;
  std::string rows;
  std::vector<std::vector<int32_t>> groups;  // of all ranks
  std::set<std::vector<int32_t>> seen;
  for (const RankProgram& rank : programs.ranks) {
    for (const std::vector<int32_t>& group : rank.constants.groups) {
      if (seen.insert(group).second) groups.push_back(group);
    }
    std::vector<size_t> used;
    for (const Region& region : rank.constants.regions) {
      const auto [entry, is_new] = index_of.emplace(region_text(region), regions.size());
      if (is_new) regions.push_back(entry->first);
      used.push_back(entry->second);
    }
    rows += "    {" + std::to_string(rank.body) + ", " + std::to_string(rank.stage) + ", \"" + spaced(rank.constants.peers) + "\", \"" +
            group_text(rank.constants.groups) + "\", \"" + spaced(used) + "\", \"" + spaced(rank.constants.offsets) + "\"},  // rank " +
            std::to_string(rank.rank) + "\n";
  }
  std::string text = "// " + comment_text(programs.model) + ": what ranks that share a program differ in. Written by sscc " + version + ".\n";
  text += "#include \"sscc_rt/bundle.h\"\n#include \"sscc_rt/tables.h\"\n\nusing namespace sscc::rt;\n\nnamespace {\n\n";
  text += "// Regions of tensors in files: a slice for each dimension, several intervals of one joined by '|'.\nconst char* const regions[] = {\n";
  if (regions.empty()) regions.emplace_back();
  for (size_t i = 0; i < regions.size(); ++i) text += "    \"" + regions[i] + "\",  // " + std::to_string(i) + "\n";
  text += "};\n\n// program, stage, peers, groups, regions (of the table above), index offsets\nconst RankRow rows[] = {\n" + rows +
          "};\n\n}  // namespace\n\n";
  text += "int sscc_ranks() { return " + std::to_string(programs.ranks.size()) + "; }\n\n";
  if (target == Target::cuda) {
    text += "// The groups of all ranks, in the order in which they make their communicators.\n";
    text += "std::vector<std::vector<int32_t>> sscc_groups() { return read_groups(\"" + group_text(groups) + "\"); }\n\n";
  }
  text += "RankInfo sscc_rank(int rank) { return {rows[rank].program, rows[rank].stage, read_constants(rows[rank], regions)}; }\n";
  return text;
}

}  // namespace sscc
