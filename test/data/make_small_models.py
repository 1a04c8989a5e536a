#!/usr/bin/python3
"""Writes the small models of the golden tests (test/data/small): a few nodes each, right ones and broken ones, the same bytes on every machine.

    test/data/make_small_models.py [DIR]
"""
import json
import os
import sys

import numpy as np

here = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(here, "..", "..", "tools", "python"))
from onnx_files import FLOAT, INT64, Graph, bytes_field, number_field  # noqa: E402


def integers(seed, *shape):
    """Weights of -1, 0 and 1: sums of their products are exact in float32, in any order."""
    return np.random.RandomState(seed).randint(-1, 2, shape).astype(np.float32)


def two_layers(batch=8, name="two_layers", opset=17, middle="Relu", second=(32, 16)):
    """x[8, 16] -> up (16 x 32) -> Relu -> down (32 x 16) -> logits"""
    graph = Graph(name, opset)
    x = graph.input("x", FLOAT, [batch, 16])
    up = graph.node("Add", "/up/Add", [graph.node("MatMul", "/up/MatMul", [x, graph.initializer("up.weight", integers(1, 16, 32))]),
                                       graph.initializer("up.bias", integers(2, 32))])
    hidden = graph.node(middle, f"/{middle}", [up])
    graph.node("MatMul", "/down/MatMul", [hidden, graph.initializer("down.weight", integers(3, *second))], ["logits"])
    graph.output("logits", FLOAT, [batch, 16])
    return graph


def linear():
    """Two linear layers and their mean squared error in the graph. Lengths are powers of two and weights integers, so that every sum, mean and
    gradient is exact."""
    graph = Graph("linear", 17)
    x, target = graph.input("x", FLOAT, [8, 16]), graph.input("target", FLOAT, [8, 16])
    hidden = graph.node("Add", "/up/Add", [graph.node("MatMul", "/up/MatMul", [x, graph.initializer("up.weight", integers(1, 16, 32))]),
                                           graph.initializer("up.bias", integers(2, 32))])
    y = graph.node("Add", "/down/Add", [graph.node("MatMul", "/down/MatMul", [hidden, graph.initializer("down.weight", integers(3, 32, 16))]),
                                        graph.initializer("down.bias", integers(4, 16))])
    error = graph.node("Sub", "/Sub", [y, target])
    graph.node("ReduceMean", "/ReduceMean", [graph.node("Mul", "/Mul", [error, error])], ["loss"], keepdims=0)
    graph.output("loss", FLOAT, [])
    return graph


def tied():
    """ids[4, 8] -> table (16 x 8) -> mix (8 x 8) -> the same table, transposed -> logits"""
    graph = Graph("tied", 17)
    table = graph.initializer("table", integers(1, 16, 8))
    x = graph.node("Gather", "/embed/Gather", [table, graph.input("ids", INT64, [4, 8])])
    mixed = graph.node("MatMul", "/mix/MatMul", [x, graph.initializer("mix.weight", integers(2, 8, 8))])
    graph.node("MatMul", "/head/MatMul", [mixed, graph.node("Transpose", "/head/Transpose", [table], perm=[1, 0])], ["logits"])
    graph.output("logits", FLOAT, [4, 8, 16])
    return graph


def reals(seed, *shape):
    return np.random.RandomState(seed).uniform(-1, 1, shape).astype(np.float32)


def norms():
    """x[8, 4, 3, 2] through a batch, an instance, a group and an RMS norm to a batch norm without space, and their error: the mean of squares."""
    graph = Graph("norms", 23)
    x, target = graph.input("x", FLOAT, [8, 4, 3, 2]), graph.input("target", FLOAT, [8, 6])
    weights = lambda name, seed, *shape: [graph.initializer(f"{name}.weight", 1 + reals(seed, *shape) / 2), graph.initializer(f"{name}.bias", reals(seed + 1, *shape))]

    def batch_norm(x, name, seed, channels, momentum):
        running = [graph.initializer(f"{name}.running_mean", reals(seed + 2, channels)), graph.initializer(f"{name}.running_var", 1 + reals(seed + 3, channels) / 2)]
        outputs = [f"/{name}/{output}" for output in ("y", "mean", "var")]
        return graph.node("BatchNormalization", f"/{name}/BatchNormalization", [x, *weights(name, seed, channels), *running], outputs, momentum=momentum,
                          epsilon=1e-3, training_mode=1)

    y = graph.node("Tanh", "/Tanh", [batch_norm(x, "bn1", 1, 4, 0.75)])
    y = graph.node("InstanceNormalization", "/in/InstanceNormalization", [y, *weights("in", 5, 4)], epsilon=1e-2)
    y = graph.node("GroupNormalization", "/gn/GroupNormalization", [graph.node("Sin", "/Sin", [y]), *weights("gn", 7, 4)], num_groups=2, epsilon=1e-3)
    y = graph.node("RMSNormalization", "/rms/RMSNormalization", [y, graph.initializer("rms.weight", 1 + reals(9, 3, 2) / 2)], axis=2, epsilon=1e-3)
    y = graph.node("MatMul", "/fc/MatMul", [graph.node("Flatten", "/Flatten", [y], axis=1), graph.initializer("fc.weight", reals(10, 24, 6))])
    error = graph.node("Sub", "/Sub", [batch_norm(y, "bn2", 11, 6, 0.5), target])
    graph.node("ReduceMean", "/ReduceMean", [graph.node("Mul", "/Mul", [error, error])], ["loss"], keepdims=0)
    graph.output("loss", FLOAT, [])
    return graph


def norms_of_inference():
    """x[2, 4, 3] through a batch norm with given statistics and a group norm with a scale for each group, as opset 18 has it."""
    graph = Graph("norms_of_inference", 18)
    x = graph.input("x", FLOAT, [2, 4, 3])
    scale = lambda name, seed, *shape: graph.initializer(name, 1 + reals(seed, *shape) / 2)
    given = [scale("bn.weight", 1, 4), graph.initializer("bn.bias", reals(2, 4)), graph.initializer("bn.mean", reals(3, 4)), scale("bn.var", 4, 4)]
    y = graph.node("BatchNormalization", "/bn/BatchNormalization", [x, *given])
    weights = [scale("gn.weight", 5, 2), graph.initializer("gn.bias", reals(6, 2))]
    graph.node("GroupNormalization", "/gn/GroupNormalization", [y, *weights], ["y"], num_groups=2)
    graph.output("y", FLOAT, [2, 4, 3])
    return graph


def external_data(graph):
    """Another initializer, whose data lie in a file that is not there."""
    entry = lambda key, value: bytes_field(13, bytes_field(1, key) + bytes_field(2, value))
    graph.initializers[0] = (number_field(1, 16) + number_field(1, 32) + number_field(2, FLOAT) + bytes_field(8, "up.weight") +
                             entry("location", "weights.bin") + entry("offset", "0") + entry("length", "2048") + number_field(14, 1))
    return graph


def recipe(**more):
    return {"loss": {"kind": "softmax_cross_entropy", "logits": "logits", "labels": "labels", "class_axis": 1},
            "optimizer": {"kind": "sgd", "lr": 0.5}, **more}


def unknown_operator():
    graph = two_layers(name="unknown_operator")
    graph.node("Frobnicate", "/odd/Frobnicate", ["logits"], ["odd"], domain="com.example")
    graph.output("odd", FLOAT, [8, 16])
    return graph


def no_producer():
    graph = two_layers(name="no_producer")
    graph.node("Add", "/odd/Add", ["logits", "nowhere"], ["odd"])
    graph.output("odd", FLOAT, [8, 16])
    return graph


def missing_operand():
    graph = two_layers(name="missing_operand")
    graph.node("Gather", "/odd/Gather", ["logits"], ["odd"])
    graph.output("odd", FLOAT, [8, 16])
    return graph


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "small")
    os.makedirs(folder, exist_ok=True)
    whole = two_layers().model("make_small_models.py")
    models = {
        "two_layers": whole,
        "linear": linear().model("make_small_models.py"),
        "tied": tied().model("make_small_models.py"),
        "norms": norms().model("make_small_models.py"),
        "norms_of_inference": norms_of_inference().model("make_small_models.py"),
        "symbolic": two_layers(batch="batch", name="symbolic").model("make_small_models.py"),
        "old_opset": two_layers(name="old_opset", opset=7).model("make_small_models.py"),
        "unknown_operator": unknown_operator().model("make_small_models.py"),
        "no_producer": no_producer().model("make_small_models.py"),
        "missing_operand": missing_operand().model("make_small_models.py"),
        "shapes_do_not_fit": two_layers(name="shapes_do_not_fit", second=(31, 16)).model("make_small_models.py"),
        "external_data": external_data(two_layers(name="external_data")).model("make_small_models.py"),
        "no_gradient": two_layers(name="no_gradient", middle="Ceil").model("make_small_models.py"),
        "truncated": whole[:len(whole) // 2],
        "not_onnx": b"This is a text, not a model.\n",
    }
    for name, data in models.items():
        with open(os.path.join(folder, f"{name}.onnx"), "wb") as file:
            file.write(data)
    recipes = {
        "two_layers": recipe(),
        "linear": {"loss": {"kind": "graph_output", "output": "loss"}, "optimizer": {"kind": "sgd", "lr": 0.5}},
        "norms": {"loss": {"kind": "graph_output", "output": "loss"}, "optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.9},
                  "state": [{"initializer": f"{name}.running_{what}", "updated_by": f"/{name}/{what}"} for name in ("bn1", "bn2") for what in ("mean", "var")]},
        "tied": recipe(loss={"kind": "softmax_cross_entropy", "logits": "logits", "labels": "labels", "class_axis": 2}),
    }
    for name, content in recipes.items():
        with open(os.path.join(folder, f"{name}.train.json"), "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
