// The passes in the order in which they run (compiler/driver/compile.cpp is the map). Each takes the module as the pass before left it,
// reports what the plan or the model gets wrong, and goes on where it can; the pipeline stops after a pass that reported an error.
#pragma once

#include "compiler/ir/cluster.h"
#include "compiler/ir/module.h"
#include "compiler/plan/plan.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

// Subgraphs that equal an ONNX function become that operator: LayerNormalization, Gelu (erf and tanh forms). Then finds layers and roles.
void recognize(Module& module, Diagnostics& diagnostics);

// Layers (repeats of the longest block) and roles of operators, from structure alone; `recognize` ends with it.
void find_blocks(Module& module);

// Appends the loss (unless in the graph), backward operators, gradient norm, clipping and one update for each trainable parameter.
// Nothing without a recipe.
void differentiate(Module& module, const Recipe& recipe, Diagnostics& diagnostics);

// Which tensors are small floats: activations and their gradients, where the plan's precision is bf16 or f16, which scales the loss, too. f32:
// nothing changes.
void set_precision(Module& module, const Plan& plan, Diagnostics& diagnostics);

// op-trans: cuts the step into micro-batches, divides every operator (op.splits), decomposes operators divided along a % axis.
void transform(Module& module, const Plan& plan, Diagnostics& diagnostics);

// op-assign: a stage and devices for every piece.
void assign(Module& module, const Plan& plan, Diagnostics& diagnostics);

// op-order: segments, each device's timetable, and what is to come before what beyond it.
void order(Module& module, const Plan& plan, Diagnostics& diagnostics);

// From views to transfers: for every reader of every tensor, who gives which region and which share of the sum. No byte is sent twice to a device;
// what a device has itself is used first; addends are joined where they are.
void materialize(Module& module);

// Exchanges become all-reduces and all-gathers, matching messages reduce-scatters; the rest is sent point to point. Where the plan has a rule for a
// communication, it travels as the rule says. Costs are times on the cluster's links, if there is a cluster. Those of a step's end
// become buckets.
void form_collectives(Module& module, const Plan& plan, const Cluster& cluster, Diagnostics& diagnostics);

// Empty messages, where `before` asks between devices for what no data says.
void signal(Module& module);

}  // namespace sscc
