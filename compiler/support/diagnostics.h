// Diagnostics: what is wrong with the user's model, recipe, plan or data, where, and what would be right.
//
// Three kinds of failure are never mixed: a diagnostic (this file; exit status 1), an environment failure (EnvironmentError; exit
// status 3), a bug (SSCC_CHECK; exit status 70). Usage errors (exit status 2) are the command line's own.
//
// Every code stands once in diagnostics.def with its meaning, and has a test that provokes it (tools/check compares the two).
// Passes report and go on where that is possible, so that one run shows several mistakes; the pipeline stops after the pass.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace sscc {

enum class Severity { error, warning, note };

enum class Code : int {
#define SSCC_DIAGNOSTIC(number, name, meaning) name = number,
#include "compiler/support/diagnostics.def"
#undef SSCC_DIAGNOSTIC
};

// A place in a text file (the plan, the recipe) or in a model. Line and column count from 1; 0: not known.
struct Location {
  std::string file;
  int line = 0;
  int column = 0;
  std::string pointer;  // JSON pointer, "/transform/1/split"
};

struct Diagnostic {
  Severity severity = Severity::error;
  Code code{};
  Location where;
  std::string node;     // the ONNX node's name, empty where none is concerned
  std::string message;  // what is wrong, one sentence, no full stop
  std::string advice;   // what would be right; may be empty
  std::string warning;  // for warnings: the name after -W ("replicated")
};

class Diagnostics {
 public:
  // Report an error: `error(code, where, "cannot split axis 'h' (12 heads) into 16 pieces", "use at most 12", node)`.
  void error(Code code, Location where, std::string message, std::string advice = "", std::string node = "");
  // Report a warning under a name that -Wno-NAME silences and -Werror turns into an error.
  void warning(const char* name, Code code, Location where, std::string message, std::string advice = "", std::string node = "");
  void note(Location where, std::string message);

  void append(const Diagnostics& others);
  Diagnostics same_settings() const;  // with nothing in it

  bool has_errors() const { return errors_ > 0; }
  const std::vector<Diagnostic>& all() const { return all_; }

  // The warnings to leave out, and whether warnings are errors; set before the first report.
  std::vector<std::string> silenced;
  bool warnings_are_errors = false;

 private:
  std::vector<Diagnostic> all_;
  int errors_ = 0;
};

// "plan.json:14:5: error: cannot split ... [SSC2103] at /transform/1, node 'N'; use at most 12"
std::string to_text(const Diagnostic& diagnostic, bool color = false);

// The environment failed (a file that cannot be opened, a missing tool): exit status 3. `what()` holds path and reason.
class EnvironmentError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace sscc
