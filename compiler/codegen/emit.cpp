#include "compiler/codegen/emit.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "compiler/codegen/build_folder.h"
#include "compiler/codegen/embedded_files.h"
#include "compiler/codegen/manifest.h"
#include "compiler/codegen/print_fused.h"
#include "compiler/codegen/print_program.h"
#include "compiler/codegen/print_ranks.h"
#include "compiler/codegen/safetensors.h"
#include "compiler/support/diagnostics.h"

namespace sscc {
namespace {

namespace fs = std::filesystem;

void write_text(const fs::path& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  file.close();
  if (!file) throw EnvironmentError("cannot write '" + path.string() + "': " + std::strerror(errno));
}

// A new folder beside the final one; removed with everything in it unless it was put in place.
class FolderBeside {
 public:
  explicit FolderBeside(const fs::path& target) : target_(target) {
    path_ = target.parent_path() / ("." + target.filename().string() + ".sscc-" + std::to_string(getpid()));
    try {
      fs::remove_all(path_);
      fs::create_directories(path_);
    } catch (const fs::filesystem_error& error) { throw EnvironmentError("cannot create '" + path_.string() + "': " + error.code().message()); }
  }
  FolderBeside(const FolderBeside&) = delete;
  FolderBeside& operator=(const FolderBeside&) = delete;
  ~FolderBeside() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }

  const fs::path& path() const { return path_; }

  // Replaces the target. What was there is moved aside first and removed last.
  void put_in_place() {
    const fs::path old = path_.string() + ".old";
    try {
      const bool exists = fs::exists(target_);
      if (exists) fs::rename(target_, old);
      fs::rename(path_, target_);
      path_.clear();
      if (exists) fs::remove_all(old);
    } catch (const fs::filesystem_error& error) { throw EnvironmentError("cannot replace '" + target_.string() + "': " + error.code().message()); }
  }

 private:
  fs::path target_, path_;
};

fs::path absolute_folder(const std::string& folder) {
  fs::path path = fs::absolute(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // "out/"
  return path;
}

// "80-real;90": machine code for each, and PTX of the last.
std::string cmake_architectures(const std::vector<std::string>& architectures) {
  std::string text;
  for (size_t i = 0; i < architectures.size(); ++i) text += (i ? ";" : "") + architectures[i] + (i + 1 < architectures.size() ? "-real" : "");
  return text;
}

// What a template does not know: "@ranks@", "@architectures@", "@convolutions@".
std::string filled_in(std::string text, const Programs& programs, const EmitOptions& options) {
  const std::pair<const char*, std::string> values[] = {{"@ranks@", std::to_string(programs.ranks.size())},
                                                        {"@architectures@", cmake_architectures(options.architectures)},
                                                        {"@convolutions@", llvm::any_of(programs.bodies, has_convolutions) ? "ON" : "OFF"}};
  for (const auto& [name, value] : values) {
    for (size_t at = text.find(name); at != std::string::npos; at = text.find(name, at)) text.replace(at, std::strlen(name), value);
  }
  return text;
}

// Everything that is compiled or says how, sorted by path.
std::vector<TextFile> sources_of(const Programs& programs, const EmitOptions& options) {
  const std::string& version = options.version;
  std::vector<TextFile> files;
  for (const EmbeddedFile& file : embedded_files(options.target)) {
    const bool is_template = file.path == "CMakeLists.txt";
    files.push_back({std::string(file.path), is_template ? filled_in(std::string(file.text), programs, options) : std::string(file.text)});
  }
  FusedFunctions fused(options.target);
  for (size_t i = 0; i < programs.bodies.size(); ++i) {
    files.push_back({"src/program_" + std::to_string(i) + ".cpp", print_program(programs, static_cast<int32_t>(i), options.target, fused, version)});
  }
  if (!fused.empty()) {
    files.push_back({"src/fused.h", fused.header(version)});
    const std::vector<std::string> definitions = fused.sources(version);
    for (size_t i = 0; i < definitions.size(); ++i) files.push_back({"src/fused_" + std::to_string(i) + fused.extension(), definitions[i]});
  }
  files.push_back({"src/model.cpp", print_model(programs, version)});
  files.push_back({"src/ranks.cpp", print_ranks(programs, options.target, version)});
  std::sort(files.begin(), files.end(), [](const TextFile& a, const TextFile& b) { return a.path < b.path; });
  return files;
}

// Everything but bin/.
void write_files(const Programs& programs, const EmitOptions& options, const fs::path& folder) {
  const std::vector<TextFile> sources = sources_of(programs, options);
  for (const TextFile& file : sources) {
    const fs::path path = folder / file.path;
    fs::create_directories(path.parent_path());
    write_text(path, file.text);
  }
  fs::permissions(folder / "run",
                  fs::perms::owner_all | fs::perms::group_read | fs::perms::group_exec | fs::perms::others_read | fs::perms::others_exec);

  std::vector<const FileTensor*> tensors;
  for (const FileTensor& tensor : programs.parameters) tensors.push_back(&tensor);
  for (const FileTensor& tensor : programs.constants) tensors.push_back(&tensor);
  fs::create_directories(folder / "weights");
  const std::vector<WeightFile> weights = write_safetensors((folder / "weights").string(), tensors);

  std::string hashes;
  for (const TextFile& file : sources) hashes += file.path + " " + sha256(file.text) + "\n";
  const std::string check = options.check_json ? options.check_json(sha256(hashes)) : "";
  const std::pair<const char*, const std::string&> reports[] = {{"plan.expanded.json", options.plan_expanded_json},
                                                                {"check.json", check},
                                                                {"schedule.svg", options.schedule_svg},
                                                                {"trace.predicted.json", options.trace_json}};
  for (const auto& [name, text] : reports) {
    if (!text.empty()) write_text(folder / name, text);
  }
  write_text(folder / "manifest.json", manifest_json(programs, options, sources, weights));
}

}  // namespace

std::string runtime_hash(const EmitOptions& options) {
  std::string text = cmake_architectures(options.architectures) + "\n";
  for (const EmbeddedFile& file : embedded_files(options.target)) text.append(file.path).append("\n").append(file.text).append("\n");
  return sha256(text);
}

void check_output_folder(const std::string& folder, bool force) {
  const fs::path path = absolute_folder(folder);
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) return;
  if (!fs::is_directory(status)) throw EnvironmentError("'" + folder + "' exists and is not a folder");
  const bool empty = fs::is_empty(path, error);
  if (error) throw EnvironmentError("cannot read '" + folder + "': " + error.message());
  if (!empty && !force && !has_manifest(path.string())) {
    throw EnvironmentError("'" + folder + "' is not empty and was not written by sscc; give another folder, or replace it with --force");
  }
}

void emit(const Programs& programs, const EmitOptions& options) {
  check_output_folder(options.folder, options.force);
  const fs::path target = absolute_folder(options.folder);
  FolderBeside folder(target);
  try {
    write_files(programs, options, folder.path());
  } catch (const fs::filesystem_error& error) { throw EnvironmentError("cannot write '" + error.path1().string() + "': " + error.code().message()); }
  if (options.build) build_folder(folder.path().string(), {options.target, options.jobs, target.string() + ".log", runtime_hash(options)});
  folder.put_in_place();
}

}  // namespace sscc
