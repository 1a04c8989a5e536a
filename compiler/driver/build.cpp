#include "compiler/driver/build.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "compiler/codegen/build_folder.h"
#include "compiler/codegen/emit.h"
#include "compiler/ir/print.h"
#include "compiler/program/print.h"
#include "compiler/report/schedule.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/SHA256.h"

namespace sscc {
namespace {

std::string hex_digest(llvm::SHA256& hash) { return llvm::toHex(hash.final(), true); }

std::string hash_of_text(const std::string& text) {
  llvm::SHA256 hash;
  hash.update(llvm::StringRef(text));
  return hex_digest(hash);
}

std::string hash_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw EnvironmentError(path + ": " + std::strerror(errno));
  llvm::SHA256 hash;
  std::vector<char> block(1 << 20);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())) || file.gcount() > 0)
    hash.update(llvm::StringRef(block.data(), static_cast<size_t>(file.gcount())));
  return hex_digest(hash);
}

}  // namespace

CheckFacts facts_of(const Compilation& c, Target target) {
  CheckFacts facts;
  facts.is_for_gpus = target == Target::cuda;
  facts.equivalent = c.equivalent;
  facts.deadlock_free = c.deadlock_free;
  facts.makespan_seconds = c.prediction.makespan_seconds;
  facts.bubble_fraction = c.prediction.bubble_fraction;
  facts.device = c.cluster.name;
  facts.reference_device = c.cluster.is_given() ? "" : "1 TFLOP/s, 200 GB/s memory, 20 GB/s links, 10 us latency";
  return facts;
}

Target default_target() { return has_nvcc() ? Target::cuda : Target::cpu; }

void check_output(const std::string& folder, bool force) { check_output_folder(folder, force); }

void build(const BuildRequest& request, const Compilation& c, const Diagnostics& diagnostics) {
  EmitOptions options;
  options.target = request.target;
  for (const std::string& architecture : request.architectures) options.architectures.push_back(architecture.substr(std::strlen("sm_")));
  options.folder = request.folder;
  options.build = request.binaries;
  options.jobs = request.jobs;
  options.force = request.force;
  options.version = request.version;
  options.onnx_hash = request.model == "-" ? "" : hash_of_file(request.model);
  options.plan_hash = hash_of_text(c.plan.text);
  options.cluster_hash = c.cluster.is_given() ? hash_of_text(c.cluster.text) : "";
  options.check_json = [&, check = check_json(c.programs, facts_of(c, request.target), diagnostics)](const std::string& sources) {
    std::vector<std::pair<std::string, std::string>> hashes = {
        {"onnx", options.onnx_hash}, {"plan", options.plan_hash}, {"recipe", hash_of_text(c.recipe.text)}, {"sources", sources}};
    if (c.cluster.is_given()) hashes.emplace_back("cluster", options.cluster_hash);
    return with_hashes(check, hashes);
  };
  options.schedule_svg = schedule_svg(c.programs, c.prediction);
  options.trace_json = trace_json(c.programs, c.prediction);
  emit(c.programs, options);
}

void dump_step(const std::string& folder, int number, const std::string& step, const Compilation& c) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  char prefix[8];
  snprintf(prefix, sizeof prefix, "%02d.", number);
  const std::string path = folder + "/" + prefix + step + ".txt";
  std::ofstream file(path);
  if (!file) throw EnvironmentError(path + ": " + std::strerror(errno));
  file << (c.programs.ranks.empty() ? print(c.module) : print(c.programs));
}

}  // namespace sscc
