#include "compiler/codegen/manifest.h"

#include <algorithm>
#include <map>
#include <set>

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SHA256.h"
#include "llvm/Support/raw_ostream.h"

namespace sscc {
namespace {

constexpr const char* format_name = "sscc build folder";
constexpr int format_version = 1;
constexpr int plan_language_version = 1;

// For one tensor, the regions that each rank reads or writes of it, in micro-batch order.
using RegionsOfRanks = std::map<int32_t, std::vector<std::string>>;

void add_region(const RankProgram& rank, int64_t index, RegionsOfRanks& regions) {
  const std::string text = rank.constants.regions[static_cast<size_t>(index)].to_string();
  std::vector<std::string>& list = regions[rank.rank];
  if (std::find(list.begin(), list.end(), text) == list.end()) list.push_back(text);
}

// By the name of the tensor in files: what is loaded into buffers, kept over steps, or captured.
std::map<std::string, RegionsOfRanks> collect_regions(const Programs& programs) {
  std::map<std::string, RegionsOfRanks> tensors;
  for (const RankProgram& rank : programs.ranks) {
    const Body& body = programs.bodies[static_cast<size_t>(rank.body)];
    for (const Buffer& buffer : body.buffers) {
      if (buffer.source == Buffer::Source::none || buffer.regions < 0) continue;
      for (int64_t copy = 0; copy < buffer.copies; ++copy) add_region(rank, buffer.regions + copy, tensors[buffer.tensor]);
    }
    for (const ProgramSlot& slot : body.schedule) {
      for (const Instruction& instruction : body.segments[static_cast<size_t>(slot.segment)].instructions) {
        if (instruction.opcode != Opcode::capture) continue;
        const auto& capture = std::get<Capture>(instruction.expression);
        if (capture.what == Capture::What::output) add_region(rank, capture.regions + slot.micro_batch, tensors[capture.tensor]);
      }
    }
  }
  return tensors;
}

// "0..3,6"
std::string ranks_text(const std::vector<int32_t>& ranks) {
  std::string text;
  for (size_t i = 0; i < ranks.size(); ++i) {
    size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    text += (i ? "," : "") + std::to_string(ranks[i]);
    if (last > i) text += ".." + std::to_string(ranks[last]);
    i = last;
  }
  return text;
}

void write_regions(llvm::json::OStream& json, const RegionsOfRanks& regions) {
  std::map<std::vector<std::string>, std::vector<int32_t>> ranks_of;  // ranks with equal regions together
  std::vector<const std::vector<std::string>*> order;                 // by their first rank
  for (const auto& [rank, list] : regions) {
    auto& ranks = ranks_of[list];
    if (ranks.empty()) order.push_back(&list);
    ranks.push_back(rank);
  }
  json.attributeArray("on", [&] {
    for (const auto* list : order) {
      json.object([&] {
        json.attribute("ranks", ranks_text(ranks_of[*list]));
        json.attributeArray("regions", [&] {
          for (const std::string& region : *list) json.value(region);
        });
      });
    }
  });
}

void write_tensors(llvm::json::OStream& json, const Programs& programs) {
  const std::map<std::string, RegionsOfRanks> regions = collect_regions(programs);
  std::set<std::string> written;
  const auto write = [&](const std::vector<FileTensor>& tensors, const char* kind) {
    for (const FileTensor& tensor : tensors) {
      written.insert(tensor.name);
      json.object([&] {
        json.attribute("name", llvm::json::fixUTF8(tensor.name));
        json.attribute("kind", kind);
        json.attribute("dtype", rt::name_of(tensor.dtype));
        json.attributeArray("shape", [&] {
          for (const int64_t length : tensor.shape) json.value(length);
        });
        if (tensor.trainable) json.attribute("trainable", true);
        if (const auto found = regions.find(tensor.name); found != regions.end()) write_regions(json, found->second);
      });
    }
  };
  json.attributeArray("tensors", [&] {
    write(programs.parameters, "parameter");
    write(programs.constants, "constant");
    write(programs.inputs, "input");
    write(programs.labels, "label");
    write(programs.outputs, "output");
    for (const auto& [name, of_ranks] : regions) {  // moments; they have the type and shape of their parameter
      if (written.contains(name)) continue;
      json.object([&, &name = name, &of_ranks = of_ranks] {
        json.attribute("name", llvm::json::fixUTF8(name));
        json.attribute("kind", "state");
        write_regions(json, of_ranks);
      });
    }
  });
}

}  // namespace

std::string sha256(const std::string& text) {
  llvm::SHA256 hash;
  hash.update(text);
  return llvm::toHex(hash.final(), true);
}

std::string manifest_json(const Programs& programs, const EmitOptions& options, const std::vector<TextFile>& sources,
                          const std::vector<WeightFile>& weights) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  llvm::json::OStream json(stream, 1);
  json.object([&] {
    json.attribute("format", format_name);
    json.attributeObject("versions", [&] {
      json.attribute("format", format_version);
      json.attribute("plan_language", plan_language_version);
      json.attribute("sscc", options.version);
    });
    json.attribute("target", name_of(options.target));
    if (options.target == Target::cuda) {
      json.attributeArray("architectures", [&] {
        for (const std::string& architecture : options.architectures) json.value("sm_" + architecture);
      });
    }
    json.attribute("model", llvm::json::fixUTF8(programs.model));
    json.attribute("training", programs.training);
    json.attributeObject("hashes", [&] {
      json.attribute("onnx", options.onnx_hash);
      json.attribute("plan", options.plan_hash);
      if (!options.cluster_hash.empty()) json.attribute("cluster", options.cluster_hash);
      json.attributeObject("sources", [&] {
        for (const TextFile& file : sources) json.attribute(file.path, sha256(file.text));
      });
    });
    json.attributeArray("ranks", [&] {
      for (const RankProgram& rank : programs.ranks) {
        json.object([&] {
          json.attribute("rank", rank.rank);
          json.attribute("program", "bin/program_" + std::to_string(rank.body) + ".so");
          json.attribute("device", rank.rank);
          json.attribute("stage", rank.stage);
          json.attribute("arena_bytes", programs.bodies[static_cast<size_t>(rank.body)].arena_bytes);
        });
      }
    });
    json.attributeArray("weights", [&] {
      for (const WeightFile& file : weights) {
        json.object([&] {
          json.attribute("file", "weights/" + file.name);
          json.attribute("bytes", file.bytes);
          json.attribute("tensors", file.tensors);
        });
      }
    });
    write_tensors(json, programs);
  });
  stream << "\n";
  stream.flush();
  return text;
}

bool has_manifest(const std::string& folder) {
  const auto buffer = llvm::MemoryBuffer::getFile(folder + "/manifest.json");
  if (!buffer) return false;
  llvm::Expected<llvm::json::Value> value = llvm::json::parse((*buffer)->getBuffer());
  if (!value) {
    llvm::consumeError(value.takeError());
    return false;
  }
  const llvm::json::Object* object = value->getAsObject();
  return object && object->getString("format") == llvm::StringRef(format_name);
}

}  // namespace sscc
