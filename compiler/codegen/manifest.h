// manifest.json of a build folder: what it was made from, what it holds, and which part of which tensor each rank has.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "compiler/codegen/emit.h"
#include "compiler/codegen/safetensors.h"
#include "compiler/program/program.h"

namespace sscc {

// A file of the folder: path relative to it, with '/', and its text.
struct TextFile {
  std::string path, text;
};

// SHA-256 in hexadecimal.
std::string sha256(const std::string& text);

// The manifest's text. `sources` are hashed in the order given.
std::string manifest_json(const Programs& programs, const EmitOptions& options, const std::vector<TextFile>& sources,
                          const std::vector<WeightFile>& weights);

// Whether FOLDER/manifest.json is one that sscc wrote.
bool has_manifest(const std::string& folder);

}  // namespace sscc
