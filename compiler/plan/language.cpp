#include "compiler/plan/language.h"

namespace sscc::language {

const Keys plan = {"plan",
                   {"version", "name", "params", "mesh", "train", "transform", "assign", "order", "precision", "communication", "memory_limit"}};
const Keys transform_rule = {"transform_rule",
                             {"axis", "ops", "dim", "split", "within", "optional", "recompute", "parameters", "gradients", "state", "store", "when"}};
const Keys split_time = {"split_time", {"time", "rotate"}};
const Keys split_over = {"split_over", {"over", "sizes", "deal"}};
const Keys store = {"store", {"split", "dim", "gather"}};
const Keys axis_of = {"axis_of", {"of", "output", "dim"}};
const Keys selector = {"selector_object",
                       {"name", "type", "role", "layer", "phase", "reads", "writes", "stage", "micro_batch", "pass", "piece", "not"}};
const Keys assign_rule = {"assign_rule", {"stages", "cut_before", "balance", "place", "ops", "on", "when"}};
const Keys device_place = {"device_place", {"devices", "mesh"}};
const Keys order = {"order", {"schedule", "timetable", "blocks", "repetend", "before"}};
const Keys block = {"block", {"block", "step", "span"}};
const Keys communication_rule = {"communication_rule", {"tensor", "phase", "over", "from", "to", "lowering", "compress", "when"}};
const Keys compression = {"compression", {"top_k", "int8_block"}};

const Keys recipe = {"recipe",
                     {"loss", "optimizer", "clip_grad_norm", "labels", "parameters", "constants", "state", "recycle", "name", "summary", "model",
                      "opset", "steps", "inputs", "outputs", "batch_separable", "zero_gradient", "tolerances", "notes"}};
const Keys tensor_description = {"tensor_description", {"name", "dtype", "shape", "batch_axis", "file"}};
const Keys loss_graph_output = {"loss_graph_output", {"kind", "output", "reduction"}};
const Keys loss_softmax_cross_entropy = {"loss_softmax_cross_entropy", {"kind", "logits", "labels", "class_axis", "ignore_index", "reduction"}};
const Keys loss_mse = {"loss_mse", {"kind", "prediction", "target", "reduction"}};
const Keys optimizer_sgd = {"optimizer_sgd", {"kind", "lr", "momentum", "weight_decay", "no_weight_decay"}};
const Keys optimizer_adam = {"optimizer_adam", {"kind", "lr", "beta1", "beta2", "eps", "weight_decay", "no_weight_decay"}};
const Keys state_entry = {"state_entry", {"initializer", "updated_by"}};
const Keys recycle = {"recycle", {"iterations", "initial", "gradient", "feedback"}};
const Keys feedback = {"feedback", {"output", "input", "shape"}};

const std::vector<const Keys*>& all_keys() {
  static const std::vector<const Keys*> list = {&plan,
                                                &transform_rule,
                                                &split_time,
                                                &split_over,
                                                &store,
                                                &axis_of,
                                                &selector,
                                                &assign_rule,
                                                &device_place,
                                                &order,
                                                &block,
                                                &communication_rule,
                                                &compression,
                                                &recipe,
                                                &loss_mse,
                                                &tensor_description,
                                                &state_entry,
                                                &recycle,
                                                &feedback,
                                                &loss_graph_output,
                                                &loss_softmax_cross_entropy,
                                                &optimizer_sgd,
                                                &optimizer_adam};
  return list;
}

const Keys cluster = {"cluster", {"version", "name", "note", "device", "levels"}};
const Keys cluster_device = {"device", {"flops_per_second", "memory_bytes_per_second", "memory", "kernel_seconds"}};
const Keys cluster_flops = {"flops_per_second", {"f32", "bf16", "f16"}};
const Keys cluster_level = {"level", {"name", "devices", "groups", "bytes_per_second", "latency_seconds"}};

const std::vector<const Keys*>& cluster_keys() {
  static const std::vector<const Keys*> list = {&cluster, &cluster_device, &cluster_flops, &cluster_level};
  return list;
}

const Words schedules = {
    "schedule",
    {"gpipe", "1f1b", "interleaved_1f1b", "1f1b_eager", "zb_h1", "zb_h2", "zb_v", "dualpipe_v", "chimera", "interlaced", "nf1b", "infer"}};
const Words phases = {"phase", {"forward", "backward", "dgrad", "wgrad", "update"}};
const Words roles = {"role", {"embedding", "head", "attention", "mlp", "experts", "norm", "loss", "residual"}};
const Words axis_names = {"axis_name",
                          {"@batch", "@sequence", "@heads", "@mlp", "@inner", "@hidden", "@vocabulary", "@experts", "@channels", "@space"}};
const Words precisions = {"precision", {"f32", "bf16", "f16"}};
const Words lowerings = {"lowering", {"auto", "collective", "p2p", "ring", "local_all_gather", "broadcast"}};
const Words data_types = {"data_type", {"float32", "float64", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"}};
const Words loss_kinds = {"loss_kind", {"graph_output", "softmax_cross_entropy", "mse"}};
const Words optimizer_kinds = {"optimizer_kind", {"sgd", "adam", "adamw"}};

const std::vector<const Words*>& all_words() {
  static const std::vector<const Words*> list = {&schedules, &phases, &roles, &axis_names, &precisions, &lowerings, &data_types};
  return list;
}

}  // namespace sscc::language
