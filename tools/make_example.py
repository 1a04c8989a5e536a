#!/usr/bin/python3
"""Writes a GPT as an ONNX file with its training recipe: a decoder with learned positions, fused qkv, LayerNormalization, GELU (tanh) and a tied
embedding, with the names and shapes that torch.onnx gives such a model. The weights are drawn without floating-point functions: the
same bytes on every machine.

    tools/make_example.py -o examples/gpt
    tools/make_example.py -o DIR --hidden 256 --sequence 128 --batch 8 --vocabulary 512
"""
import argparse
import json
import math
import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "python"))
from initial_weights import Weights  # noqa: E402
from onnx_files import FLOAT, INT64, Graph  # noqa: E402


def linear(graph, weights, path, x, width_in, width_out, deviation):
    weight = weights.uniform(f"{dotted(path)}.weight", (width_in, width_out), deviation)
    bias = weights.full(f"{dotted(path)}.bias", (width_out,), 0)
    product = graph.node("MatMul", f"{path}/MatMul", [x, weight])
    return graph.node("Add", f"{path}/Add", [product, bias])


def dotted(path):
    """/layers.0/attn/qkv -> layers.0.attn.qkv"""
    return path.strip("/").replace("/", ".")


def layer_norm(graph, weights, path, x, width):
    scale = weights.full(f"{dotted(path)}.weight", (width,), 1)
    bias = weights.full(f"{dotted(path)}.bias", (width,), 0)
    return graph.node("LayerNormalization", f"{path}/LayerNormalization", [x, scale, bias], axis=-1, epsilon=1e-5)


def attention(graph, weights, path, x, size):
    """x[batch, sequence, hidden] -> the same shape; the mask hides keys after the query."""
    hidden, heads = size.hidden, size.heads
    width = hidden // heads
    qkv = linear(graph, weights, f"{path}/qkv", x, hidden, 3 * hidden, 1 / math.sqrt(hidden))
    lengths = graph.constant(f"{path}/Constant", np.array([hidden] * 3, np.int64))
    parts = [f"{path}/Split_output_{i}" for i in range(3)]
    graph.node("Split", f"{path}/Split", [qkv, lengths], parts, axis=-1)
    split = graph.constant(f"{path}/Constant_1", np.array([size.batch, size.sequence, heads, width], np.int64))

    def by_head(index, perm):
        reshaped = graph.node("Reshape", f"{path}/Reshape_{index}", [parts[index], split])
        return graph.node("Transpose", f"{path}/Transpose_{index}", [reshaped], perm=perm)

    query, key, value = by_head(0, [0, 2, 1, 3]), by_head(1, [0, 2, 3, 1]), by_head(2, [0, 2, 1, 3])
    scores = graph.node("MatMul", f"{path}/MatMul", [query, key])
    scaled = graph.node("Mul", f"{path}/Mul", [scores, graph.constant(f"{path}/Constant_2", np.float32(1 / math.sqrt(width)))])
    hidden_score = graph.constant(f"{path}/Constant_3", np.float32(-np.inf))
    masked = graph.node("Where", f"{path}/Where", ["causal_mask", hidden_score, scaled])
    weight = graph.node("Softmax", f"{path}/Softmax", [masked], axis=-1)
    mixed = graph.node("MatMul", f"{path}/MatMul_1", [weight, value])
    back = graph.node("Transpose", f"{path}/Transpose_3", [mixed], perm=[0, 2, 1, 3])
    joined = graph.constant(f"{path}/Constant_4", np.array([size.batch, size.sequence, hidden], np.int64))
    return linear(graph, weights, f"{path}/proj", graph.node("Reshape", f"{path}/Reshape_3", [back, joined]), hidden, hidden,
                  1 / math.sqrt(2 * size.layers * hidden))


def gelu(graph, path, x):
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))"""
    def scalar(index, value):
        return graph.constant(f"{path}/Constant_{index}", np.float32(value))

    cube = graph.node("Mul", f"{path}/Mul_1", [x, graph.node("Mul", f"{path}/Mul", [x, x])])
    inner = graph.node("Add", f"{path}/Add", [x, graph.node("Mul", f"{path}/Mul_2", [scalar(0, 0.044715), cube])])
    tanh = graph.node("Tanh", f"{path}/Tanh", [graph.node("Mul", f"{path}/Mul_3", [scalar(1, 0.7978845608028654), inner])])
    gate = graph.node("Add", f"{path}/Add_1", [scalar(2, 1.0), tanh])
    return graph.node("Mul", f"{path}/Mul_5", [scalar(3, 0.5), graph.node("Mul", f"{path}/Mul_4", [x, gate])])


def mlp(graph, weights, path, x, size):
    up = linear(graph, weights, f"{path}/up", x, size.hidden, 4 * size.hidden, 1 / math.sqrt(size.hidden))
    return linear(graph, weights, f"{path}/down", gelu(graph, path, up), 4 * size.hidden, size.hidden, 1 / math.sqrt(8 * size.layers * size.hidden))


def gpt(size):
    """(serialized model, names of the parameters)"""
    graph = Graph("gpt", opset=17)
    weights = Weights(graph, 1, size.external)
    tokens = graph.input("input_ids", INT64, [size.batch, size.sequence])
    embedding = weights.uniform("wte.weight", (size.vocabulary, size.hidden), 0.05)
    positions = weights.uniform("wpe", (size.sequence, size.hidden), 0.02)
    graph.initializer("causal_mask", np.triu(np.ones((size.sequence, size.sequence), bool), 1))
    x = graph.node("Add", "/Add", [graph.node("Gather", "/wte/Gather", [embedding, tokens]), positions])
    for i in range(size.layers):
        path = f"/layers.{i}"
        x = graph.node("Add", f"{path}/Add", [x, attention(graph, weights, f"{path}/attn", layer_norm(graph, weights, f"{path}/ln_1", x, size.hidden), size)])
        x = graph.node("Add", f"{path}/Add_1", [x, mlp(graph, weights, f"{path}/mlp", layer_norm(graph, weights, f"{path}/ln_2", x, size.hidden), size)])
    head = graph.node("Transpose", "/Transpose", [embedding], perm=[1, 0])
    graph.node("MatMul", "/MatMul", [layer_norm(graph, weights, "/ln_f", x, size.hidden), head], ["logits"])
    graph.output("logits", FLOAT, [size.batch, size.sequence, size.vocabulary])
    return graph.model("tools/make_example.py"), weights.names


def recipe(size, parameters):
    return {
        "name": "gpt",
        "summary": f"decoder of {size.layers} layers, hidden {size.hidden}, {size.heads} heads; tokens are bytes of text",
        "loss": {"kind": "softmax_cross_entropy", "logits": "logits", "labels": "labels", "class_axis": 2},
        "labels": [{"name": "labels", "dtype": "int64", "shape": [size.batch, size.sequence], "batch_axis": 0, "file": "label_0.pb"}],
        "optimizer": {"kind": "adamw", "lr": size.learning_rate, "beta1": 0.9, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.01,
                      "no_weight_decay": [p for p in parameters if p.endswith(".bias") or ".ln_" in p or p.startswith("ln_f")]},
        "clip_grad_norm": 1.0,
        "parameters": parameters,
        "constants": ["causal_mask"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", dest="folder", required=True, help="gets model.onnx and train.json")
    for option, default, meaning in (("hidden", 64, "width of the residual stream"), ("layers", 4, "blocks"), ("heads", 4, "attention heads of a block"),
                                     ("sequence", 64, "tokens of a sample"), ("batch", 16, "samples of a step"), ("vocabulary", 128, "tokens there are")):
        parser.add_argument(f"--{option}", type=int, default=default, help=f"{meaning} (default {default})")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--external", metavar="FILE", help="declare the weights as external data in this file, and do not write it: for `sscc check` alone")
    size = parser.parse_args()
    if size.hidden % size.heads:
        parser.error("--hidden must be a multiple of --heads")
    model, parameters = gpt(size)
    os.makedirs(size.folder, exist_ok=True)
    with open(os.path.join(size.folder, "model.onnx"), "wb") as file:
        file.write(model)
    with open(os.path.join(size.folder, "train.json"), "w", encoding="utf-8") as file:
        json.dump(recipe(size, parameters), file, indent=1)
        file.write("\n")
    print(f"{size.folder}/model.onnx: {len(model)} bytes, {len(parameters)} parameters")


if __name__ == "__main__":
    main()
