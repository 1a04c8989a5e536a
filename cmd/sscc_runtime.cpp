// sscc-runtime LIBRARY FOLDER: puts the runtime that sscc's own build has compiled where sscc looks for it, beside itself. Part of the build: a build
// folder for the same compiler and processor then need not compile it again.
#include <cstdio>
#include <exception>

#include "compiler/codegen/build_folder.h"
#include "compiler/codegen/emit.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: sscc-runtime LIBRARY FOLDER\n");
    return 2;
  }
  try {
    sscc::bring_runtime(argv[1], argv[2], sscc::runtime_hash(sscc::EmitOptions()));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sscc-runtime: %s\n", error.what());
    return 3;
  }
}
