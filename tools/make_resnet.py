#!/usr/bin/python3
"""Writes a ResNet as an ONNX file with its training recipe: bottleneck blocks whose stride stands in the 3x3 convolution (v1.5), batch norms in
training mode with their running statistics as state of the recipe, the names that torchvision's models have. As it is, ResNet-50. Convolutions are
drawn as He et al. do (normal, by what a position sends on), without floating-point functions: the same bytes on every machine. The last norm of a
block begins with a scale of 0, so that the block begins as its shortcut: with 1, gradients grow from block to block, and rounding alone changes
losses by hundredths within a few steps.

    tools/make_resnet.py -o DIR --batch 32
    tools/make_resnet.py -o DIR --widths 8,16 --blocks 1,1 --image 32 --classes 8 --batch 4
"""
import argparse
import json
import math
import os
import re
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "python"))
from initial_weights import Weights  # noqa: E402
from onnx_files import FLOAT, INT64, Graph  # noqa: E402

EXPANSION = 4   # a block's output is so many times as wide as its 3x3 convolution


class Network:
    """The graph as it grows. Paths are those of modules: layer1.0.conv2 has the weight layer1.0.conv2.weight and the node /layer1.0/conv2/Conv."""

    def __init__(self, external):
        self.graph = Graph("resnet", opset=15)
        self.weights, self.state = Weights(self.graph, 1, external), []

    def node(self, op_type, path, inputs, outputs=(), **attributes):
        """`outputs`: what the names of further ones end in; without any the node has one."""
        name = "/" + re.sub(r"\.(?!\d)", "/", path) + f"/{op_type}"
        return self.graph.node(op_type, name, inputs, [f"{name}_{output}" for output in ("output_0", *outputs)], **attributes)

    def convolution(self, path, x, width_in, width_out, kernel, stride=1):
        deviation = math.sqrt(2 / (width_out * kernel**2))
        weight = self.weights.normal(f"{path}.weight", (width_out, width_in, kernel, kernel), deviation)
        return self.node("Conv", path, [x, weight], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4)

    def norm(self, path, x, width, scale=1):
        given = [self.weights.full(f"{path}.{name}", (width,), value) for name, value in (("weight", scale), ("bias", 0))]
        running = [self.graph.initializer(f"{path}.running_{name}", np.full(width, value, np.float32)) for name, value in (("mean", 0), ("var", 1))]
        y = self.node("BatchNormalization", path, [x, *given, *running], ["running_mean", "running_var"], epsilon=1e-5, momentum=0.9, training_mode=1)
        self.state += [{"initializer": name, "updated_by": y.replace("output_0", name.rpartition(".")[2])} for name in running]
        return y

    def block(self, path, x, width_in, width, stride):
        width_out = EXPANSION * width
        y = x
        for i, (wide_in, wide_out, kernel) in enumerate([(width_in, width, 1), (width, width, 3), (width, width_out, 1)], 1):
            y = self.convolution(f"{path}.conv{i}", y, wide_in, wide_out, kernel, stride if kernel == 3 else 1)
            y = self.norm(f"{path}.bn{i}", y, wide_out, 1 if i < 3 else 0)
            if i < 3:
                y = self.node("Relu", f"{path}.relu{i}", [y])
        if stride != 1 or width_in != width_out:
            x = self.convolution(f"{path}.downsample.0", x, width_in, width_out, 1, stride)
            x = self.norm(f"{path}.downsample.1", x, width_out)
        return self.node("Relu", f"{path}.relu3", [self.node("Add", path, [y, x])])


def resnet(size):
    """(serialized model, names of the parameters, state)"""
    network = Network(size.external)
    graph, width = network.graph, size.widths[0]
    x = graph.input("images", FLOAT, [size.batch, 3, size.image, size.image])
    x = network.norm("bn1", network.convolution("conv1", x, 3, width, 7, 2), width)
    x = network.node("MaxPool", "maxpool", [network.node("Relu", "relu", [x])], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, (width_of_stage, blocks) in enumerate(zip(size.widths, size.blocks), 1):
        for i in range(blocks):
            x = network.block(f"layer{stage}.{i}", x, width, width_of_stage, 2 if stage > 1 and i == 0 else 1)
            width = EXPANSION * width_of_stage
    x = network.node("Flatten", "flatten", [network.node("GlobalAveragePool", "avgpool", [x])], axis=1)
    given = [network.weights.normal("fc.weight", (size.classes, width), 0.01), network.weights.full("fc.bias", (size.classes,), 0)]
    graph.node("Gemm", "/fc/Gemm", [x, *given], ["logits"], transB=1)
    graph.output("logits", FLOAT, [size.batch, size.classes])
    return graph.model("tools/make_resnet.py"), network.weights.names, network.state


def recipe(size, parameters, state):
    return {
        "name": "resnet",
        "summary": f"ResNet of {'+'.join(map(str, size.blocks))} bottleneck blocks, {size.image} x {size.image} pixels, {size.classes} classes",
        "inputs": [{"name": "images", "dtype": "float32", "shape": [size.batch, 3, size.image, size.image], "batch_axis": 0, "file": "input_0.pb"}],
        "loss": {"kind": "softmax_cross_entropy", "logits": "logits", "labels": "labels", "class_axis": 1},
        "labels": [{"name": "labels", "dtype": "int64", "shape": [size.batch], "batch_axis": 0, "file": "label_0.pb"}],
        "optimizer": {"kind": "sgd", "lr": size.learning_rate, "momentum": 0.9, "weight_decay": 1e-4},
        "clip_grad_norm": None,
        "parameters": parameters,
        "constants": [],
        "state": state,
    }


def numbers(text):
    return [int(word) for word in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", dest="folder", required=True, help="gets model.onnx and train.json")
    parser.add_argument("--widths", type=numbers, default="64,128,256,512", help="of the 3x3 convolutions of each stage (default %(default)s)")
    parser.add_argument("--blocks", type=numbers, default="3,4,6,3", help="of each stage (default %(default)s)")
    for option, default, meaning in (("image", 224, "height and width"), ("classes", 1000, "classes there are"), ("batch", 32, "images of a step")):
        parser.add_argument(f"--{option}", type=int, default=default, help=f"{meaning} (default {default})")
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--external", metavar="FILE", help="declare the weights as external data in this file, and do not write it")
    size = parser.parse_args()
    if len(size.widths) != len(size.blocks):
        parser.error("--widths and --blocks must name as many stages")
    model, parameters, state = resnet(size)
    os.makedirs(size.folder, exist_ok=True)
    with open(os.path.join(size.folder, "model.onnx"), "wb") as file:
        file.write(model)
    with open(os.path.join(size.folder, "train.json"), "w", encoding="utf-8") as file:
        json.dump(recipe(size, parameters, state), file, indent=1)
        file.write("\n")
    print(f"{size.folder}/model.onnx: {len(model)} bytes, {len(parameters)} parameters")


if __name__ == "__main__":
    main()
