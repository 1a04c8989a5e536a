// A module like that of a tiny language model with two layers, made by hand: the readers need names, shapes, roles and phases only.
#pragma once

#include <string>
#include <utility>

#include "compiler/ir/module.h"

namespace sscc {

struct SmallModel {
  Module module;

  TensorId tensor(const std::string& name, Shape shape, Role role, DType dtype = DType::f32) {
    Tensor t;
    t.name = name;
    t.shape = std::move(shape);
    t.role = role;
    t.dtype = dtype;
    if (role == Role::parameter || role == Role::constant) t.weight = Weight{};
    return module.tensors.add(std::move(t));
  }

  OpId op(const std::string& name, const std::string& type, llvm::SmallVector<TensorId, 4> inputs, llvm::SmallVector<TensorId, 2> outputs,
          int layer = -1, Phase phase = Phase::forward) {
    Op o;
    o.name = name;
    o.type = type;
    o.inputs = std::move(inputs);
    o.outputs = outputs;
    o.layer = layer;
    o.phase = phase;
    OpId id = module.ops.add(std::move(o));
    module.order.push_back(id);
    for (TensorId output : outputs) module.tensors[output].producers.push_back(id);
    return id;
  }

  TensorId ids, table, scale, hidden, up[2], weight[2], gelu[2], logits, dead;
  OpId embedding, matmul[2], gelu_op[2], head;

  SmallModel() {
    ids = tensor("input_ids", {8, 32}, Role::input, DType::i64);
    table = tensor("wte.weight", {256, 64}, Role::parameter);
    scale = tensor("scale", {1}, Role::constant);
    dead = tensor("/layers.0/mlp/Erf_output_0", {8, 32, 128}, Role::activation);
    hidden = tensor("/wte/Gather_output_0", {8, 32, 64}, Role::activation);
    embedding = op("/wte/Gather", "Gather", {table, ids}, {hidden});
    module.ops[embedding].roles = {"embedding"};
    for (int i = 0; i < 2; ++i) {
      std::string layer = "layers." + std::to_string(i);
      weight[i] = tensor(layer + ".mlp.up.weight", {64, 128}, Role::parameter);
      up[i] = tensor("/" + layer + "/mlp/up/MatMul_output_0", {8, 32, 128}, Role::activation);
      gelu[i] = tensor("/" + layer + "/mlp/Gelu_output_0", {8, 32, 128}, Role::activation);
      matmul[i] = op("/" + layer + "/mlp/up/MatMul", "MatMul", {hidden, weight[i]}, {up[i]}, i);
      gelu_op[i] = op("/" + layer + "/mlp/Mul", "Gelu", {up[i]}, {gelu[i]}, i);
      module.ops[gelu_op[i]].absorbed = {"/" + layer + "/mlp/Mul", "/" + layer + "/mlp/Erf"};
    }
    logits = tensor("logits", {8, 32, 256}, Role::activation);
    head = op("/head/MatMul", "MatMul", {gelu[1], table, scale}, {logits});
    module.ops[head].roles = {"head"};
    module.inputs = {ids};
    module.outputs = {logits};
  }

  TensorId gradient(TensorId of) {
    Tensor t;
    t.name = "grad(" + module.tensors[of].name + ")";
    t.shape = module.tensors[of].shape;
    t.role = Role::gradient;
    t.gradient_of = of;
    return module.tensors.add(std::move(t));
  }

  OpId backward(OpId forward, llvm::SmallVector<TensorId, 4> inputs, llvm::SmallVector<TensorId, 2> outputs) {
    std::string name = module.ops[forward].name, type = module.ops[forward].type;
    OpId id = op(name, type, std::move(inputs), std::move(outputs), -1, Phase::backward);
    module.ops[id].forward = forward;
    return id;
  }
};

}  // namespace sscc
