#include "compiler/support/check.h"

#include <cstdio>
#include <cstdlib>

namespace sscc {

namespace {
constexpr int exit_status_of_a_bug = 70;  // EX_SOFTWARE of sysexits.h
}

void report_bug(const char* file, int line, const char* condition, const std::string& message) {
  std::fflush(stdout);
  std::fprintf(stderr, "sscc: this is a bug in sscc: %s:%d: %s (%s does not hold)\n", file, line, message.c_str(), condition);
  std::fprintf(stderr, "sscc: please report it with the model, the plan and this text\n");
  std::fflush(stderr);
  // No destructors and no exit handlers: what they would touch may be what is broken.
  std::_Exit(exit_status_of_a_bug);
}

}  // namespace sscc
