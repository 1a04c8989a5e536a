#include "compiler/support/diagnostics.h"

#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <set>

#include "compiler/support/check.h"
#include "compiler/support/rational.h"

using namespace sscc;

namespace {

// The exit status of a child process that runs `body`.
template <class Body>
int status_of(Body body) {
  std::fflush(nullptr);
  pid_t child = fork();
  if (child == 0) {
    if (!std::freopen("/dev/null", "w", stderr)) _exit(1);
    body();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_CASE("the text of a diagnostic is that of the plan language") {
  Diagnostics diagnostics;
  diagnostics.error(Code::too_many_pieces, {"plan.json", 14, 5, "/transform/1"}, "cannot split axis 'h' (12 heads) into 16 pieces",
                    "use at most 12, evenly 1, 2, 3, 4, 6, 12", "/layers.0/attn/Softmax");
  CHECK(to_text(diagnostics.all()[0]) ==
        "plan.json:14:5: error: cannot split axis 'h' (12 heads) into 16 pieces [SSC2103] at /transform/1, node '/layers.0/attn/Softmax'; "
        "use at most 12, evenly 1, 2, 3, 4, 6, 12");
  CHECK(diagnostics.has_errors());
}

TEST_CASE("parts of a diagnostic that are not known are left out") {
  Diagnostics diagnostics;
  diagnostics.error(Code::bad_graph, {"model.onnx", 0, 0, ""}, "no producer", "", "/fc1/Gemm");
  diagnostics.warning("replicated", Code::replicated, {}, "the work is repeated");
  diagnostics.note({"plan.json", 2, 0, ""}, "left out: a, b");
  CHECK(to_text(diagnostics.all()[0]) == "model.onnx: error: no producer [SSC1005] at node '/fc1/Gemm'");
  CHECK(to_text(diagnostics.all()[1]) == "sscc: warning: the work is repeated [SSC2109, -Wreplicated]");
  CHECK(to_text(diagnostics.all()[2]) == "plan.json:2: note: left out: a, b");
  CHECK(to_text(diagnostics.all()[0], true).find("\033[1;31merror:\033[0m") != std::string::npos);
}

TEST_CASE("warnings are silenced by name or become errors") {
  Diagnostics silent;
  silent.silenced = {"rounded"};
  silent.warning("rounded", Code::rounded, {}, "rounded");
  silent.warning("replicated", Code::replicated, {}, "repeated");
  CHECK(silent.all().size() == 1);
  CHECK_FALSE(silent.has_errors());

  Diagnostics strict;
  strict.warnings_are_errors = true;
  strict.warning("rounded", Code::rounded, {}, "rounded");
  CHECK(strict.has_errors());
  CHECK(strict.all()[0].severity == Severity::error);
  CHECK(to_text(strict.all()[0]) == "sscc: error: rounded [SSC2110, -Werror, -Wrounded]");
}

TEST_CASE("every code has its own number") {
  std::multiset<int> numbers = {
#define SSCC_DIAGNOSTIC(number, name, meaning) number,
#include "compiler/support/diagnostics.def"
#undef SSCC_DIAGNOSTIC
  };
  CHECK(std::set<int>(numbers.begin(), numbers.end()).size() == numbers.size());
}

TEST_CASE("a bug ends the process with status 70") {
  CHECK(status_of([] { SSCC_CHECK(1 + 1 == 3, "arithmetic"); }) == 70);
  CHECK(status_of([] { SSCC_CHECK(1 + 1 == 2, "arithmetic"); }) == 0);
  CHECK(status_of([] { Rational(1, 0); }) == 70);
  CHECK(status_of([] { (void)(Rational(INT64_MAX) + Rational(1)); }) == 70);
}
