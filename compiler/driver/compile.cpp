// The map of the compiler. Each line of the pipeline is a function in a file of its own; the sentences between them say what is fixed from there on.
#include "compiler/driver/compile.h"

#include <algorithm>
#include <chrono>

#include "compiler/frontend/read_onnx.h"
#include "compiler/ops/verify.h"
#include "compiler/passes/passes.h"
#include "compiler/plan/read_cluster.h"
#include "compiler/program/check.h"
#include "compiler/program/lower.h"
#include "compiler/simulate/predict.h"
#include "compiler/support/check.h"
#include "compiler/support/parallel.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringRef.h"

namespace sscc {
namespace {

struct Step {
  const char* name;
  void (*run)(const Request&, Compilation&, Diagnostics&);
  bool only_reads = false;  // programs; writes a result of its own
};

const Step straight_line[] = {
    {"read_onnx", [](const Request& request, Compilation& c, Diagnostics& d) { c.module = read_onnx(request.model, {request.shapes}, d); }},
    {"recognize",
     [](const Request& request, Compilation& c, Diagnostics& d) {
       if (request.needs_weights) check_weights_present(c.module, d);
       recognize(c.module, d);
     }},
    {"read_plan",
     [](const Request& request, Compilation& c, Diagnostics& d) {
       PlanAndRecipe read = read_plan(request.plan, request.recipe, request.settings, c.module, d);
       c.plan = std::move(read.plan);
       c.recipe = std::move(read.recipe);
       c.module.meshes[0] = c.plan.mesh;
       if (!request.cluster.empty()) c.cluster = read_cluster(request.cluster, d);
     }},
    {"differentiate", [](const Request&, Compilation& c, Diagnostics& d) { differentiate(c.module, c.recipe, d); }},
    {"set_precision", [](const Request&, Compilation& c, Diagnostics& d) { set_precision(c.module, c.plan, d); }},
    // Beyond this point the set of logical tensors is fixed, but for micro-batches of inputs, variants, and the statistics that a decomposed operator joins.
    {"transform", [](const Request&, Compilation& c, Diagnostics& d) { transform(c.module, c.plan, d); }},
    {"assign",
     [](const Request&, Compilation& c, Diagnostics& d) {
       assign(c.module, c.plan, d);
       check_size(c.cluster, c.module.devices(), d);
     }},
    {"order", [](const Request&, Compilation& c, Diagnostics& d) { order(c.module, c.plan, d); }},
    // Beyond this point no compute operator is added, split, moved or reordered.
    {"materialize", [](const Request&, Compilation& c, Diagnostics&) { materialize(c.module); }},
    {"form_collectives", [](const Request&, Compilation& c, Diagnostics& d) { form_collectives(c.module, c.plan, c.cluster, d); }},
    {"signal", [](const Request&, Compilation& c, Diagnostics&) { signal(c.module); }},
    // Beyond this point every byte that crosses devices is an explicit delivery.
    {"lower",
     [](const Request&, Compilation& c, Diagnostics&) {
       c.programs = lower(c.module);
       c.module.deliveries = std::vector<Delivery>();  // many, on a large machine, and nobody asks for them from here on
     }},
    {"fuse_attention", [](const Request&, Compilation& c, Diagnostics&) { fuse_attention(c.module, c.programs); }},
    {"fuse", [](const Request&, Compilation& c, Diagnostics&) { fuse(c.programs); }},
    {"fuse_epilogues", [](const Request&, Compilation& c, Diagnostics&) { fuse_epilogues(c.module, c.programs); }},
    {"order_transfers", [](const Request&, Compilation& c, Diagnostics&) { order_transfers(c.programs); }},
    {"prefetch", [](const Request&, Compilation& c, Diagnostics&) { prefetch(c.programs); }},
    {"plan_buffers", [](const Request&, Compilation& c, Diagnostics&) { plan_buffers(c.programs); }},
    {"assign_streams", [](const Request&, Compilation& c, Diagnostics&) { assign_streams(c.programs); }},
    {"join_kernels", [](const Request&, Compilation& c, Diagnostics&) { join_kernels(c.programs); }},
    // Beyond this point programs are final: the checkers below, the emitter, the interpreter and the cost model all read the same ones.
    {"check_deadlock", [](const Request&, Compilation& c, Diagnostics& d) { c.deadlock_free = check_deadlock(c.programs, d); }, true},
    {"check_lineage", [](const Request&, Compilation& c, Diagnostics& d) { c.equivalent = check_lineage(c.module, c.programs, d); }, true},
    {"check_memory",
     [](const Request&, Compilation& c, Diagnostics& d) {
       check_memory(c.programs, d);
       check_races(c.programs, d);
       if (c.plan.memory_limit.empty() && c.cluster.device.memory_bytes > 0)
         check_memory_limit(c.programs, {c.cluster.device.memory_bytes}, c.cluster.memory_where, d);
       else
         check_memory_limit(c.programs, c.plan.memory_limit, c.plan.memory_limit_where, d);
     },
     true},
    {"check_order", [](const Request&, Compilation& c, Diagnostics& d) { check_order(c.module, c.programs, d); }, true},
    {"predict", [](const Request&, Compilation& c, Diagnostics&) { c.prediction = predict(c.programs, c.cluster); }, true},
};

double timed(const Step& step, const Request& request, Compilation& c, Diagnostics& diagnostics) {
  const auto begin = std::chrono::steady_clock::now();
  step.run(request, c, diagnostics);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Runs a step, times it, and makes sure that it left a module that keeps its rules.
void run_step(const Step& step, const Request& request, Compilation& c, Diagnostics& diagnostics, const After& after) {
  c.seconds.emplace_back(step.name, timed(step, request, c, diagnostics));
  if (diagnostics.has_errors()) return;
  if (c.programs.ranks.empty()) {
    const std::string problem = problem_of(c.module);
    SSCC_CHECK(problem.empty(), std::string("after ") + step.name + ": " + problem);
  }
  if (after) after(step.name, c);
}

// Runs steps that only read the programs, side by side. What they report appears in their order, up to the first that found an error.
void run_side_by_side(llvm::ArrayRef<Step> steps, const Request& request, Compilation& c, Diagnostics& diagnostics, const After& after) {
  std::vector<Diagnostics> reports(steps.size(), diagnostics.same_settings());
  std::vector<double> seconds(steps.size());
  in_parallel(steps.size(), [&](size_t i) { seconds[i] = timed(steps[i], request, c, reports[i]); });
  for (size_t i = 0; i < steps.size() && !diagnostics.has_errors(); ++i) {
    c.seconds.emplace_back(steps[i].name, seconds[i]);
    diagnostics.append(reports[i]);
    if (after && !diagnostics.has_errors()) after(steps[i].name, c);
  }
}

}  // namespace

bool compile(const Request& request, Compilation& c, Diagnostics& diagnostics, const std::string& last, const After& after) {
  const llvm::ArrayRef<Step> steps(straight_line);
  const auto checks = llvm::find_if(steps, [](const Step& step) { return step.only_reads; });
  for (const Step& step : llvm::make_range(steps.begin(), checks)) {
    run_step(step, request, c, diagnostics, after);
    if (diagnostics.has_errors() || last == step.name) return !diagnostics.has_errors();
  }
  run_side_by_side({checks, steps.end()}, request, c, diagnostics, after);
  return !diagnostics.has_errors();
}

bool run_passes(const std::vector<std::string>& names, Compilation& c, Diagnostics& diagnostics) {
  const llvm::ArrayRef<Step> all(straight_line);
  const auto reads_a_file = [](const Step& step) { return llvm::StringRef(step.name).starts_with("read_"); };
  for (const std::string& name : names) {
    const bool is_from_there_on = llvm::StringRef(name).ends_with("..");
    const auto first = llvm::find_if(all, [&](const Step& step) { return name == step.name + std::string(is_from_there_on ? ".." : ""); });
    if (first == all.end() || reads_a_file(*first)) {
      std::string known;
      for (const Step& each : all)
        if (!reads_a_file(each)) known += (known.empty() ? "" : ", ") + std::string(each.name);
      throw UnknownPass("there is no pass " + quoted(name) + "; passes are " + known);
    }
    for (const Step& step : llvm::make_range(first, is_from_there_on ? all.end() : std::next(first))) {
      run_step(step, {}, c, diagnostics, {});
      if (diagnostics.has_errors()) return false;
    }
  }
  return true;
}

}  // namespace sscc
