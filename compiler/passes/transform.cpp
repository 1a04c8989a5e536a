// op-trans: the step is cut into micro-batches, then every operator is divided.
#include "compiler/passes/cut_step.h"
#include "compiler/passes/divide.h"
#include "compiler/passes/passes.h"

namespace sscc {

void transform(Module& module, const Plan& plan, Diagnostics& diagnostics) {
  cut_step(module, plan, diagnostics);
  if (!diagnostics.has_errors()) divide(module, plan, diagnostics);
}

}  // namespace sscc
