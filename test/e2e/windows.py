#!/usr/bin/python3
"""Convolution and pooling as ONNX defines them: every attribute, on one rank, and divided over the batch, over space and over channels. Integers, so
that results are equal; the reference below slides windows in NumPy.

    test/e2e/windows.py --sscc build/sscc
"""
import argparse
import itertools
import os
import sys
import tempfile

import numpy as np
from harness import Findings, Subject, need, run
from onnx_files import FLOAT, Graph, read_tensor, write_tensor

# What is read: two images of 4 channels in a row, a plane, a volume.
ROW, PLANE, VOLUME = (2, 4, 12), (2, 4, 12, 8), (2, 4, 6, 4, 8)
# (name, operator, input, weight's shape or None, attributes)
CASES = [
    ("plain", "Conv", PLANE, (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
    ("of_a_row", "Conv", ROW, (3, 4, 3), {"pads": [1, 1], "kernel_shape": [3]}),
    ("of_a_volume", "Conv", VOLUME, (2, 4, 3, 1, 3), {"pads": [1, 0, 1, 1, 0, 1]}),
    ("strided", "Conv", PLANE, (6, 4, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("patches", "Conv", PLANE, (6, 4, 4, 4), {"strides": [4, 4]}),
    ("dilated", "Conv", PLANE, (6, 4, 3, 2), {"pads": [2, 1, 2, 1], "dilations": [2, 2]}),
    ("grouped", "Conv", PLANE, (6, 2, 3, 3), {"pads": [1, 1, 1, 1], "group": 2}),
    ("depthwise", "Conv", PLANE, (8, 1, 3, 3), {"pads": [1, 1, 1, 1], "group": 4}),
    ("valid", "Conv", PLANE, (6, 4, 3, 5), {}),
    ("lopsided", "Conv", PLANE, (6, 4, 3, 3), {"pads": [0, 2, 2, 0]}),
    ("same_upper", "Conv", PLANE, (6, 4, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [1, 2]}),
    ("same_lower", "Conv", PLANE, (6, 4, 4, 2), {"auto_pad": "SAME_LOWER"}),
    ("doubled", "ConvTranspose", PLANE, (4, 3, 2, 2), {"strides": [2, 2]}),
    ("transposed", "ConvTranspose", PLANE, (4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    ("transposed_grouped", "ConvTranspose", PLANE, (4, 3, 3, 3), {"pads": [1, 1, 1, 1], "group": 2, "dilations": [1, 1]}),
    ("transposed_volume", "ConvTranspose", VOLUME, (4, 2, 2, 2, 2), {"strides": [2, 2, 2]}),
    ("transposed_shape", "ConvTranspose", PLANE, (4, 3, 3, 3), {"strides": [2, 2], "output_shape": [24, 16]}),
    ("transposed_same", "ConvTranspose", PLANE, (4, 3, 4, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("max", "MaxPool", PLANE, None, {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("max_overlapping", "MaxPool", PLANE, None, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("max_rounded_up", "MaxPool", PLANE, None, {"kernel_shape": [5, 3], "strides": [3, 3], "ceil_mode": 1}),
    ("max_dilated", "MaxPool", VOLUME, None, {"kernel_shape": [2, 1, 2], "dilations": [2, 1, 3]}),
    ("mean", "AveragePool", PLANE, None, {"kernel_shape": [2, 4], "strides": [2, 4]}),
    ("mean_of_seen", "AveragePool", PLANE, None, {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}),
    ("mean_with_padding", "AveragePool", PLANE, None, {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0], "count_include_pad": 1}),
    ("mean_of_all", "GlobalAveragePool", PLANE, None, {}),
    ("max_of_all", "GlobalMaxPool", VOLUME, None, {}),
]
PLANS = {
    "one rank": {},
    "batch": [(f"{kind}:0", 2) for kind in ("row", "plane", "volume")],
    "space": [(f"{kind}:2", 2) for kind in ("row", "plane", "volume")],
    "space of three": [(f"{kind}:2", 3) for kind in ("row", "plane", "volume")],
    "channels": [(f"{kind}:1", 2) for kind in ("row", "plane", "volume")],
}


def geometry(attributes, kernel, space, transposed):
    """(strides, dilations, pads in front, lengths of the result) by the rules of the operators' documentation."""
    n = len(space)
    strides, dilations = attributes.get("strides", [1] * n), attributes.get("dilations", [1] * n)
    pads, auto = attributes.get("pads", [0] * 2 * n), attributes.get("auto_pad", "NOTSET")
    more = attributes.get("output_padding", [0] * n)
    front, lengths = [], []
    for d in range(n):
        extent, before, behind = (kernel[d] - 1) * dilations[d] + 1, pads[d], pads[n + d]
        if transposed:
            whole = strides[d] * (space[d] - 1) + more[d] + extent
            told = attributes["output_shape"][d] if "output_shape" in attributes else space[d] * strides[d] if auto != "NOTSET" else None
            if told is not None:
                before, behind = (whole - told) // 2, whole - told - (whole - told) // 2
                if auto != "SAME_UPPER":
                    before, behind = behind, before
            lengths.append(whole - before - behind)
        else:
            if auto.startswith("SAME"):
                total = max((-(-space[d] // strides[d]) - 1) * strides[d] + extent - space[d], 0)
                before, behind = (total // 2, total - total // 2) if auto == "SAME_UPPER" else (total - total // 2, total // 2)
            room = space[d] + before + behind - extent
            count = (-(-room // strides[d]) if attributes.get("ceil_mode") else room // strides[d]) + 1
            if attributes.get("ceil_mode") and (count - 1) * strides[d] >= space[d] + before:
                count -= 1
            lengths.append(count)
        front.append(before)
    return strides, dilations, front, lengths


def pairs(small, large, kernel, strides, dilations, front):
    """(index of a window, what it sees at a tap, tap) for all that is not padding."""
    for y in itertools.product(*map(range, small)):
        for k in itertools.product(*map(range, kernel)):
            x = tuple(y[d] * strides[d] + k[d] * dilations[d] - front[d] for d in range(len(small)))
            if all(0 <= x[d] < large[d] for d in range(len(small))):
                yield y, x, k


def reference(op, x, weight, bias, attributes):
    space = x.shape[2:]
    if op == "GlobalAveragePool":
        return x.mean(tuple(range(2, x.ndim)), keepdims=True)
    if op == "GlobalMaxPool":
        return x.max(tuple(range(2, x.ndim)), keepdims=True)
    kernel = weight.shape[2:] if weight is not None else attributes["kernel_shape"]
    strides, dilations, front, lengths = geometry(attributes, kernel, space, op == "ConvTranspose")
    everything = (slice(None), slice(None))
    if weight is None:
        result = np.full(x.shape[:2] + tuple(lengths), -np.inf if op == "MaxPool" else 0.0)
        count = np.zeros(lengths)
        for y, at, _ in pairs(lengths, space, kernel, strides, dilations, front):
            result[everything + y] = np.maximum(result[everything + y], x[everything + at]) if op == "MaxPool" else result[everything + y] + x[everything + at]
            count[y] += 1
        if op == "MaxPool":
            return result
        return result / (np.prod(kernel) if attributes.get("count_include_pad") else count)
    groups = attributes.get("group", 1)
    channels = weight.shape[0] if op == "Conv" else weight.shape[1] * groups
    result = np.zeros((x.shape[0], channels) + tuple(lengths))
    for g in range(groups):
        ins, outs = (slice(g * each // groups, (g + 1) * each // groups) for each in (x.shape[1], channels))
        if op == "Conv":
            for y, at, k in pairs(lengths, space, kernel, strides, dilations, front):
                result[(slice(None), outs) + y] += x[(slice(None), ins) + at] @ weight[(outs, slice(None)) + k].T
        else:
            for y, at, k in pairs(space, lengths, kernel, strides, dilations, front):
                result[(slice(None), outs) + at] += x[(slice(None), ins) + y] @ weight[(ins, slice(None)) + k]
    return result + bias.reshape((-1,) + (1,) * len(space))


def make_model(folder):
    """One graph with all cases, and data; the results that it must have, by output."""
    random = np.random.RandomState(3)
    graph, results, data = Graph("windows", 19), [], {}
    for kind, shape in ("row", ROW), ("plane", PLANE), ("volume", VOLUME):
        data[shape] = random.randint(-3, 4, shape).astype(np.float32)
        graph.input(kind, FLOAT, shape)
    names = {ROW: "row", PLANE: "plane", VOLUME: "volume"}
    for name, op, shape, weight_shape, attributes in CASES:
        inputs, weight, bias = [names[shape]], None, None
        if weight_shape:
            weight = random.randint(-2, 3, weight_shape).astype(np.float32)
            bias = random.randint(-9, 10, weight_shape[0] if op == "Conv" else weight_shape[1] * attributes.get("group", 1)).astype(np.float32)
            inputs += [graph.initializer(f"{name}.weight", weight), graph.initializer(f"{name}.bias", bias)]
        result = reference(op, data[shape], weight, bias, attributes)
        graph.output(graph.node(op, f"/{name}", inputs, [name], **attributes), FLOAT, result.shape)
        results.append((name, result))
    with open(f"{folder}/model.onnx", "wb") as file:
        file.write(graph.model("sscc"))
    os.makedirs(f"{folder}/step_0")
    for i, (shape, kind) in enumerate(names.items()):
        write_tensor(f"{folder}/step_0/input_{i}.pb", kind, data[shape])
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sscc", required=True)
    sscc = parser.parse_args().sscc
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="sscc-windows-") as folder:
        results = make_model(folder)
        for plan_name, rules in PLANS.items():
            plan = {"mesh": {"d": rules[0][1]}, "transform": [{"axis": axis, "split": "d"} for axis, _ in rules]} if rules else {}
            subject = Subject(sscc, folder, folder, plan, recipe=False)
            need(run(subject.command("run", "--data", folder, "--outputs", f"{folder}/outputs")))
            for i, (name, expected) in enumerate(results):
                got = read_tensor(f"{folder}/outputs/step_0/output_{i}.pb")
                # Means of three or five are rounded; everything else is exact.
                same = got.shape == expected.shape and np.array_equal(got, expected.astype(np.float32)) or (
                    "mean" in name and np.allclose(got, expected, rtol=1e-6, atol=1e-6))
                findings.equal(f"{plan_name}: {name}", same, True)
    return findings.report()


if __name__ == "__main__":
    sys.exit(main())
