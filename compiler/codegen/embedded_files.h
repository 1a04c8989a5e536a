// Files that are part of the sscc binary: the runtime's sources and the templates of a build folder. Written by embed.cmake when sscc is built.
#pragma once

#include <string_view>

#include "compiler/codegen/target.h"
#include "llvm/ADT/ArrayRef.h"

namespace sscc {

struct EmbeddedFile {
  std::string_view path, text;
};  // path within a build folder, "src/runtime/kernels/contract.cpp"

// Those of a target, sorted by path.
llvm::ArrayRef<EmbeddedFile> embedded_files(Target target);

}  // namespace sscc
