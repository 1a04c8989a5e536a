// SSCC_CHECK(condition, message): an invariant of the compiler's own, on in every build. A failure is a bug of ours, never of the
// user's model or plan: it prints where it is and what was assumed, and the process ends with status 70 (no core dump).
#pragma once

#include <string>

namespace sscc {

[[noreturn]] void report_bug(const char* file, int line, const char* condition, const std::string& message);

}  // namespace sscc

#define SSCC_CHECK(condition, message)                                             \
  do {                                                                             \
    if (!(condition)) ::sscc::report_bug(__FILE__, __LINE__, #condition, message); \
  } while (false)
