// f16: the dynamic scale of the loss.
#pragma once

#include "compiler/ir/module.h"

namespace sscc {

// Adds the scale, its update, and what undoes it. The module is differentiated, and not divided.
void scale_loss(Module& module);

}  // namespace sscc
