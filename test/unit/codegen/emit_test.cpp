// The emitter: source against golden text, files of a build folder, and a build that runs.
//
// Golden text is rewritten by SSCC_UPDATE_GOLDEN=1 test_codegen.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "compiler/codegen/emit.h"
#include "compiler/codegen/print_fused.h"
#include "compiler/codegen/print_program.h"
#include "compiler/codegen/print_ranks.h"
#include "compiler/codegen/safetensors.h"
#include "compiler/codegen/source_text.h"
#include "compiler/program/lower.h"
#include "compiler/support/diagnostics.h"
#include "small_programs.h"

namespace fs = std::filesystem;
using namespace sscc;

namespace {

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void write_text(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

void check_golden(const std::string& name, const std::string& text) {
  const fs::path path = fs::path(SSCC_SOURCE_DIR) / "test/golden/codegen" / (name + ".cpp.txt");
  if (std::getenv("SSCC_UPDATE_GOLDEN")) write_text(path, text);
  INFO("golden text " << path);
  CHECK(read_text(path) == text);
}

// A folder of its own for each test, removed at the end.
class Scratch {
 public:
  Scratch() : path_(fs::temp_directory_path() / ("sscc_emit_test_" + std::to_string(getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

EmitOptions options_for(const fs::path& folder) {
  EmitOptions options;
  options.folder = folder.string();
  options.build = false;
  options.version = "0.0";
  options.onnx_hash = "00";
  options.plan_hash = "11";
  options.cluster_hash = "22";
  options.check_json = [](const std::string& sources) { return "{\"sources\": \"" + sources + "\"}\n"; };
  return options;
}

std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files[fs::relative(entry.path(), folder).string()] = read_text(entry.path());
  }
  return files;
}

bool has_command(const std::string& name) { return std::system(("command -v " + name + " > /dev/null 2>&1").c_str()) == 0; }

}  // namespace

TEST_CASE("identifiers are legal, readable and unique") {
  Identifiers names;
  CHECK(names.unique("t:/layers.0/Add_output_0") == "t_layers_0_Add_output_0");
  CHECK(names.unique("t:/layers.0/Add.output_0") == "t_layers_0_Add_output_0_2");
  CHECK(names.unique("t_layers_0_Add_output_0_2") == "t_layers_0_Add_output_0_2_2");
  CHECK(names.unique("0F") == "n_0F");
  CHECK(names.unique("") == "n_");
  CHECK(names.unique("class") == "class_of_model");
  CHECK(names.unique("NULL") == "n_NULL");
  CHECK(names.unique("重み") != names.unique("出力"));
}

TEST_CASE("names of any bytes are harmless in source") {
  CHECK(string_literal("a\"b\\c\n\x01z") == "\"a\\\"b\\\\c\\012\\001z\"");
  CHECK(comment_text("a\nb\\") == "a?b\\ .");
  CHECK(comment_text("\xff") == "?");
  CHECK(comment_text("x\u202ey") == "x?y");
}

TEST_CASE("numbers read back as themselves") {
  CHECK(double_literal(0.1) == "0.1");
  CHECK(double_literal(1) == "1.0");
  CHECK(double_literal(1e-08) == "1e-08");
  CHECK(double_literal(-INFINITY) == "-infinity");
  CHECK(integer_literal(INT64_MIN) == "INT64_MIN");
}

TEST_CASE("source is as in the golden text") {
  const Programs linear = test::linear_on_two_ranks();
  FusedFunctions fused(Target::cpu);
  check_golden("linear_program", print_program(linear, 0, Target::cpu, fused, "0.0"));
  check_golden("linear_fused", fused.header("0.0") + fused.sources("0.0").front());
  check_golden("linear_model", print_model(linear, "0.0"));
  check_golden("linear_ranks", print_ranks(linear, Target::cpu, "0.0"));
  const Programs every = test::every_opcode();
  FusedFunctions more(Target::cpu);
  check_golden("every_opcode", print_program(every, 0, Target::cpu, more, "0.0"));
  check_golden("every_opcode_fused", more.sources("0.0").front());
}

TEST_CASE("source for GPUs is as in the golden text") {
  Programs linear = test::linear_on_two_ranks();
  assign_streams(linear);
  FusedFunctions fused(Target::cuda);
  check_golden("linear_program_cuda", print_program(linear, 0, Target::cuda, fused, "0.0"));
  check_golden("linear_fused_cuda", fused.sources("0.0").front());
  check_golden("linear_ranks_cuda", print_ranks(linear, Target::cuda, "0.0"));
  const Programs messages = test::messages_between_kernels();
  FusedFunctions none(Target::cuda);
  check_golden("messages_cuda", print_program(messages, 0, Target::cuda, none, "0.0"));
}

TEST_CASE("equal expressions share a function, different types do not") {
  const Programs every = test::every_opcode();
  const Body& body = every.bodies[0];
  std::vector<Instruction> fused_instructions;
  for (const Instruction& instruction : body.segments[0].instructions) {
    if (instruction.opcode == Opcode::pointwise && std::get<PointwiseExpression>(instruction.expression).steps.size() > 1)
      fused_instructions.push_back(instruction);
  }
  REQUIRE(fused_instructions.size() == 1);
  FusedFunctions fused(Target::cpu);
  const std::string name = fused.name_for(body, fused_instructions[0]);
  CHECK(fused.name_for(body, fused_instructions[0]) == name);
  Instruction other = fused_instructions[0];
  std::get<PointwiseExpression>(other.expression).steps[2].alpha = 3;
  CHECK(fused.name_for(body, other) != name);
  other = fused_instructions[0];
  other.ins[2] = other.ins[0];  // f32 in place of b1
  CHECK(fused.name_for(body, other) != name);
}

TEST_CASE("a build folder has its files, and the same bytes twice") {
  Scratch scratch;
  const Programs programs = test::linear_on_two_ranks();
  emit(programs, options_for(scratch / "a"));
  emit(programs, options_for(scratch / "b"));
  const auto files = files_of(scratch / "a");
  for (const char* name : {"run", "CMakeLists.txt", "manifest.json", "check.json", "weights/model.safetensors", "src/program_0.cpp", "src/ranks.cpp",
                           "src/model.cpp", "src/fused.h", "src/fused_0.cpp", "src/runtime/include/sscc_rt/rank.h", "src/runtime/src/launcher.cpp"}) {
    INFO(name);
    CHECK(files.contains(name));
  }
  CHECK(!files.contains("plan.expanded.json"));
  CHECK(files == files_of(scratch / "b"));
  CHECK(read_text(scratch / "a" / "src/runtime/include/sscc_rt/rank.h") == read_text(fs::path(SSCC_SOURCE_DIR) / "runtime/include/sscc_rt/rank.h"));
  const std::string& manifest = files.at("manifest.json");
  CHECK(manifest.find("\"arena_bytes\": 832") != std::string::npos);
  CHECK(manifest.find("\"cluster\": \"22\"") != std::string::npos);
  CHECK(manifest.find("\"ranks\": \"0..1\"") != std::string::npos);
  CHECK(manifest.find("[2:3, 0:3]") != std::string::npos);
  CHECK(manifest.find(scratch.operator/("a").string()) == std::string::npos);
}

TEST_CASE("a build folder for GPUs has what it needs, and nothing of processors") {
  Scratch scratch;
  EmitOptions options = options_for(scratch / "out");
  options.target = Target::cuda;
  options.architectures = {"80", "90a"};
  emit(test::linear_on_two_ranks(), options);
  const auto files = files_of(scratch / "out");
  for (const char* name : {"run", "CMakeLists.txt", "src/program_0.cpp", "src/fused_0.cu", "src/runtime/include/sscc_rt/cuda.h",
                           "src/runtime/device/nccl_data_plane.cpp", "src/runtime/cuda/pointwise.cu", "src/runtime/src/tcp_transport.cpp"}) {
    INFO(name);
    CHECK(files.contains(name));
  }
  for (const char* name : {"src/fused_0.cpp", "src/runtime/kernels/contract.cpp", "src/runtime/src/transport_mpi.cpp"}) {
    INFO(name);
    CHECK(!files.contains(name));
  }
  CHECK(files.at("CMakeLists.txt").find("\"80-real;90a\"") != std::string::npos);
  CHECK(files.at("CMakeLists.txt").find("set(ranks 2)") != std::string::npos);
  CHECK(files.at("manifest.json").find("\"target\": \"cuda\"") != std::string::npos);
  CHECK(files.at("manifest.json").find("\"sm_90a\"") != std::string::npos);
  CHECK(files.at("CMakeLists.txt").find('@') == std::string::npos);
}

TEST_CASE("only a folder of sscc's own is replaced") {
  Scratch scratch;
  const Programs programs = test::linear_on_two_ranks();
  const fs::path folder = scratch / "out";
  emit(programs, options_for(folder));
  write_text(folder / "left_over", "");
  emit(programs, options_for(folder));
  CHECK(!fs::exists(folder / "left_over"));

  const fs::path other = scratch / "other";
  fs::create_directories(other);
  check_output_folder(other.string(), false);
  write_text(other / "manifest.json", "{\"name\": \"a web page\"}");
  CHECK_THROWS_AS(emit(programs, options_for(other)), EnvironmentError);
  CHECK(read_text(other / "manifest.json") == "{\"name\": \"a web page\"}");
  EmitOptions forced = options_for(other);
  forced.force = true;
  emit(programs, forced);
  CHECK(fs::exists(other / "src/program_0.cpp"));

  write_text(scratch / "file", "");
  CHECK_THROWS_AS(check_output_folder((scratch / "file").string(), true), EnvironmentError);
  CHECK(std::distance(fs::directory_iterator(folder.parent_path()), fs::directory_iterator()) == 3);  // nothing is left beside
}

TEST_CASE("weights are sharded and streamed") {
  Scratch scratch;
  fs::create_directories(scratch / "weights");
  write_text(scratch / "data", "....abcdefgh");
  FileTensor a{"a", DType::f32, {2}, true, Weight{(scratch / "data").string(), 4, 8, nullptr}};
  FileTensor b{"b\"", DType::i8, {3}, false, Weight{"", 0, 3, std::make_shared<const std::string>("xyz")}};
  FileTensor c{"c", DType::u8, {}, false, Weight{"", 0, 1, std::make_shared<const std::string>("!")}};
  const std::string folder = (scratch / "weights").string();
  CHECK(write_safetensors(folder, {&a, &b, &c}).size() == 1);
  const std::string text = read_text(folder + "/model.safetensors");
  const std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b\"":{"dtype":"I8","shape":[3],"data_offsets":[8,11]},)"
                             R"("c":{"dtype":"U8","shape":[],"data_offsets":[11,12]}})";
  const size_t padded = (header.size() + 7) / 8 * 8;
  REQUIRE(text.size() == 8 + padded + 12);
  CHECK(static_cast<unsigned char>(text[0]) == padded % 256);
  CHECK(text.substr(8, header.size()) == header);
  CHECK(text.substr(8 + padded) == "abcdefghxyz!");

  const auto shards = write_safetensors(folder, {&a, &b, &c}, 4);
  REQUIRE(shards.size() == 2);
  CHECK(shards[0].name == "model-00001-of-00002.safetensors");
  CHECK(fs::exists(folder + "/model.safetensors.index.json"));

  a.weight->offset = 8;
  CHECK_THROWS_AS(write_safetensors(folder, {&a}), EnvironmentError);
}

TEST_CASE("emitted source compiles without a warning", "[build]") {
  if (!has_command("c++")) return;
  Scratch scratch;
  emit(test::every_opcode(), options_for(scratch / "every"));
  const std::string folder = (scratch / "every").string();
  for (const char* file : {"program_0.cpp", "fused_0.cpp", "model.cpp", "ranks.cpp"}) {
    const std::string command = "c++ -std=c++20 -Wall -Wextra -Werror -fopenmp -fsyntax-only -I" + folder + "/src -I" + folder +
                                "/src/runtime/include " + folder + "/src/" + file;
    INFO(command);
    CHECK(std::system(command.c_str()) == 0);
  }
}

TEST_CASE("a build folder builds and trains", "[build]") {
  if (!has_command("cmake") || !has_command("ninja") || !has_command("c++")) return;
  Scratch scratch;
  EmitOptions options = options_for(scratch / "out");
  options.build = true;
  emit(test::linear_on_two_ranks(), options);
  const std::string folder = (scratch / "out").string();
  CHECK(fs::exists(folder + "/bin/program_0.so"));
  CHECK(!fs::exists(folder + "/build"));
  CHECK(!fs::exists(folder + ".log"));
  // x = ones, target = zeros, as .npy (version 1.0, header padded to 64 bytes).
  const auto write_npy = [&](const std::string& name, const std::string& shape, const std::vector<float>& values) {
    std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }";
    header.append((64 - (10 + header.size() + 1) % 64) % 64, ' ');
    header += '\n';
    std::string text("\x93NUMPY\x01\x00", 8);
    text += static_cast<char>(header.size());
    text += '\0';
    text += header;
    text.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    write_text(name, text);
  };
  const std::string data = (scratch / "data").string();
  fs::create_directories(data + "/step_0");
  write_npy(data + "/step_0/input_0.npy", "(4, 3)", std::vector<float>(12, 1));
  write_npy(data + "/step_0/label_0.npy", "(4, 2)", std::vector<float>(8, 0));
  const std::string log = (scratch / "log.jsonl").string();
  const std::string command = folder + "/run --local 2 --data " + data + " --steps 2 --log " + log + " > /dev/null";
  REQUIRE(std::system(command.c_str()) == 0);
  // y = (8, 13) everywhere: loss = (64 + 169) / 2. The gradient of every weight of column j and of bias j is y_j, so y_j falls by 0.4 y_j.
  std::istringstream lines(read_text(log));
  std::string first, second;
  std::getline(lines, first);
  std::getline(lines, second);
  CHECK(first.find("\"loss\": 116.5") != std::string::npos);
  CHECK(second.find("\"loss\": 41.94") != std::string::npos);
}
