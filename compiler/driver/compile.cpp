// The map of the compiler. Each line of the pipeline is a function in a file of its own; the sentences between them say what is fixed from there on.
#include "compiler/driver/compile.h"

#include <chrono>

#include "compiler/frontend/read_onnx.h"
#include "compiler/passes/passes.h"
#include "compiler/program/check.h"
#include "compiler/program/lower.h"

namespace sscc {
namespace {

// Runs the steps one after another, times them, and stops after the first that reported an error or at the one that was asked for last.
class Line {
 public:
  Line(Compilation& compilation, Diagnostics& diagnostics, const std::string& last, const After& after)
      : compilation_(compilation), diagnostics_(diagnostics), last_(last), after_(after) {}

  template <class Function>
  Line& step(const char* name, Function function) {
    if (done_) return *this;
    const auto begin = std::chrono::steady_clock::now();
    function();
    compilation_.seconds.emplace_back(name, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    if (after_ && !diagnostics_.has_errors()) after_(name, compilation_);
    done_ = diagnostics_.has_errors() || last_ == name;
    return *this;
  }

 private:
  Compilation& compilation_;
  Diagnostics& diagnostics_;
  const std::string& last_;
  const After& after_;
  bool done_ = false;
};

}  // namespace

bool compile(const Request& request, Compilation& c, Diagnostics& diagnostics, const std::string& last, const After& after) {
  Line line(c, diagnostics, last, after);
  line.step("read_onnx", [&] { c.module = read_onnx(request.model, {request.shapes}, diagnostics); });
  line.step("recognize", [&] {
    if (request.needs_weights) check_weights_present(c.module, diagnostics);
    recognize(c.module, diagnostics);
  });
  line.step("read_plan", [&] {
    PlanAndRecipe read = read_plan(request.plan, request.recipe, request.settings, c.module, diagnostics);
    c.plan = std::move(read.plan);
    c.recipe = std::move(read.recipe);
    c.module.mesh = c.plan.mesh;
  });
  line.step("differentiate", [&] { differentiate(c.module, c.recipe, diagnostics); });
  // Beyond this point the set of logical tensors is fixed, but for micro-batches of inputs and the statistics that a decomposed operator joins.
  line.step("transform", [&] { transform(c.module, c.plan, diagnostics); });
  line.step("assign", [&] { assign(c.module, c.plan, diagnostics); });
  line.step("order", [&] { order(c.module, c.plan, diagnostics); });
  // Beyond this point no compute operator is added, split, moved or reordered.
  line.step("materialize", [&] { materialize(c.module); });
  line.step("form_collectives", [&] { form_collectives(c.module); });
  // Beyond this point every byte that crosses devices is an explicit delivery.
  line.step("lower", [&] { c.programs = lower(c.module); });
  line.step("fuse", [&] { fuse(c.programs); });
  line.step("plan_buffers", [&] { plan_buffers(c.programs); });
  // Beyond this point programs are final: the checkers below, the emitter, the interpreter and the cost model all read the same ones.
  line.step("check_lineage", [&] { c.equivalent = check_lineage(c.module, c.programs, diagnostics); });
  line.step("check_deadlock", [&] { c.deadlock_free = check_deadlock(c.programs, diagnostics); });
  line.step("check_memory", [&] {
    check_memory(c.programs, diagnostics);
    check_memory_limit(c.programs, c.plan.memory_limit, c.plan.memory_limit_where, diagnostics);
  });
  return !diagnostics.has_errors();
}

}  // namespace sscc
