#!/usr/bin/python3
"""Batch, instance, group and RMS norms, and the running statistics of batch norms: losses, gradients, weights and state of test/data/small/norms.onnx
under several plans, against NumPy's in float64 with gradients by differences.

    test/e2e/norms.py --sscc build/sscc [--via run|mpirun]
"""
import argparse
import os
import shutil
import sys
import tempfile

import numpy as np

from harness import ROOT, Findings, Subject, need, read_safetensors, relative, relative_l2, run
from onnx_files import FLOAT16, Graph, read_initializers, read_tensor, write_tensor

STEPS = 3
PLANS = {
    "one rank": {},
    "data 2": {"mesh": {"dp": 2}, "transform": [{"axis": "x:0", "split": "dp"}]},
    "data 3, uneven": {"mesh": {"dp": 3}, "transform": [{"axis": "x:0", "split": "dp"}]},
    "channels 2": {"mesh": {"tp": 2}, "transform": [{"axis": "x:1", "split": "tp"}]},
    "space 3": {"mesh": {"sp": 3}, "transform": [{"axis": "x:2", "split": "sp"}]},
    "data x channels": {"mesh": {"dp": 2, "tp": 2}, "transform": [{"axis": "x:0", "split": "dp"}, {"axis": "x:1", "split": "tp"}]},
    "stages": {"mesh": {"pp": 2}, "assign": [{"stages": "pp", "cut_before": ["/fc/*"]}]},
    "weights and state stored apart": {"mesh": {"dp": 2}, "transform": [{"axis": "x:0", "split": "dp"}, {"parameters": "*", "store": {"split": "dp"}}]},
}


def normalised(x, axes, epsilon, scale, bias):
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * scale + bias, mean.ravel(), variance.ravel()


def forward(w, x, target):
    """(loss, new state): the model in float64."""
    state = {}

    def batch_norm(x, name, momentum):
        shape = [1, -1] + [1] * (x.ndim - 2)
        y, *current = normalised(x, (0, *range(2, x.ndim)), 1e-3, w[f"{name}.weight"].reshape(shape), w[f"{name}.bias"].reshape(shape))
        for what, value in zip(("mean", "var"), current):
            state[f"{name}.running_{what}"] = momentum * w[f"{name}.running_{what}"] + (1 - momentum) * value
        return y

    channels = [1, 4, 1, 1]
    y = np.tanh(batch_norm(x, "bn1", 0.75))
    y, *_ = normalised(y, (2, 3), 1e-2, w["in.weight"].reshape(channels), w["in.bias"].reshape(channels))
    in_groups = [1, 2, 2, 1, 1]
    y, *_ = normalised(np.sin(y).reshape(8, 2, 2, 3, 2), (2, 3, 4), 1e-3, w["gn.weight"].reshape(in_groups), w["gn.bias"].reshape(in_groups))
    y = y.reshape(8, 4, 3, 2)
    y = y / np.sqrt((y * y).mean((2, 3), keepdims=True) + 1e-3) * w["rms.weight"]
    error = batch_norm(y.reshape(8, 24) @ w["fc.weight"], "bn2", 0.5) - target
    return float(np.mean(error * error)), state


def gradients_of(w, x, target, names, step=1e-6):
    gradients = {}
    for name in names:
        gradient = gradients[name] = np.zeros_like(w[name])
        for i in np.ndindex(gradient.shape):
            losses = []
            for sign in (1, -1):
                moved = dict(w, **{name: w[name].copy()})
                moved[name][i] += sign * step
                losses.append(forward(moved, x, target)[0])
            gradient[i] = (losses[0] - losses[1]) / (2 * step)
    return gradients


def make_model(folder):
    """The model, its recipe and one batch, and what they should give: losses, gradients of the first step, weights and state after the last."""
    shutil.copy(f"{ROOT}/test/data/small/norms.onnx", f"{folder}/model.onnx")
    shutil.copy(f"{ROOT}/test/data/small/norms.train.json", f"{folder}/train.json")
    random = np.random.RandomState(7)
    x, target = (random.uniform(-1, 2, shape).astype(np.float32) for shape in ((8, 4, 3, 2), (8, 6)))
    os.makedirs(f"{folder}/step_0")
    write_tensor(f"{folder}/step_0/input_0.pb", "x", x)
    write_tensor(f"{folder}/step_0/input_1.pb", "target", target)
    x, target = x.astype(np.float64), target.astype(np.float64)
    w = {name: value.astype(np.float64) for name, value in read_initializers(f"{folder}/model.onnx").items()}
    trained = [name for name in w if "running" not in name]
    losses, first, velocity = [], None, {name: 0 for name in trained}
    for _ in range(STEPS):
        loss, state = forward(w, x, target)
        gradients = gradients_of(w, x, target, trained)
        losses.append(loss)
        first = first or gradients
        for name in trained:
            velocity[name] = 0.9 * velocity[name] + gradients[name]
            w[name] = w[name] - 0.1 * velocity[name]
        w.update(state)
    return losses, first, w


def compare_inference(findings, sscc, via):
    """test/data/small/norms_of_inference.onnx: statistics that are given, scales of groups."""
    for name, plan in {"one rank": {}, "channels 2": {"mesh": {"tp": 2}, "transform": [{"axis": "x:1", "split": "tp"}]}}.items():
        with tempfile.TemporaryDirectory(prefix="sscc-norms-") as folder:
            shutil.copy(f"{ROOT}/test/data/small/norms_of_inference.onnx", f"{folder}/model.onnx")
            x = np.random.RandomState(7).uniform(-1, 2, (2, 4, 3)).astype(np.float32)
            os.makedirs(f"{folder}/step_0")
            write_tensor(f"{folder}/step_0/input_0.pb", "x", x)
            subject = Subject(sscc, folder, folder, plan, recipe=False)
            need(run(subject.command(via, "--data", folder, "--steps", 1, "--outputs", f"{folder}/outputs")))
            w = {key: value.astype(np.float64) for key, value in read_initializers(f"{folder}/model.onnx").items()}
            scale, bias, mean, variance = (w[f"bn.{what}"].reshape(4, 1) for what in ("weight", "bias", "mean", "var"))
            y = ((x - mean) / np.sqrt(variance + 1e-5) * scale + bias).reshape(2, 2, 2, 3)
            y, *_ = normalised(y, (2, 3), 1e-5, w["gn.weight"].reshape(2, 1, 1), w["gn.bias"].reshape(2, 1, 1))
            got = read_tensor(f"{folder}/outputs/step_0/output_0.pb")
            findings.bound(f"inference, {name}", relative_l2(got, y.reshape(2, 4, 3)), 1e-5)


def compare_half(findings, sscc, via):
    """Models in half precision: statistics, scale and bias are float, whatever the model's are."""
    random = np.random.RandomState(5)
    x, scale, bias = (random.uniform(low, 2, shape).astype(np.float16) for low, shape in ((-1, (3, 4, 6)), (0.5, 4), (-1, 4)))
    last = random.uniform(0.5, 2, 6).astype(np.float16)
    graph = Graph("half", 21)
    graph.input("x", FLOAT16, x.shape)
    for name, value in {"scale": scale, "bias": bias, "last": last, "mean": 0 * scale, "variance": scale}.items():
        graph.initializer(name, value)
    by_channel = [each.astype(np.float64).reshape(4, 1) for each in (scale, bias)]
    groups = [each.reshape(2, 2, 1) for each in by_channel]
    wide = x.astype(np.float64)
    # (operator, operands, attributes, what it is in float64)
    nodes = {"layer": ("LayerNormalization", ["last"], {}, normalised(wide, (2,), 1e-5, last.astype(np.float64), 0)[0]),
             "rms": ("RMSNormalization", ["last"], {}, wide / np.sqrt((wide**2).mean(2, keepdims=True) + 1e-5) * last.astype(np.float64)),
             "instance": ("InstanceNormalization", ["scale", "bias"], {}, normalised(wide, (2,), 1e-5, *by_channel)[0]),
             "group": ("GroupNormalization", ["scale", "bias"], {"num_groups": 2},
                       normalised(wide.reshape(3, 2, 2, 6), (2, 3), 1e-5, *groups)[0].reshape(x.shape)),
             "batch": ("BatchNormalization", ["scale", "bias", "mean", "variance"], {"training_mode": 1}, normalised(wide, (0, 2), 1e-5, *by_channel)[0])}
    for name, (kind, operands, attributes, _) in nodes.items():
        graph.output(graph.node(kind, f"/{name}", ["x", *operands], [name], **attributes), FLOAT16, x.shape)
    for plan_name, plan in {"one rank": {}, "batch 3": {"mesh": {"dp": 3}, "transform": [{"axis": "x:0", "split": "dp"}]}}.items():
        with tempfile.TemporaryDirectory(prefix="sscc-norms-") as folder:
            with open(f"{folder}/model.onnx", "wb") as file:
                file.write(graph.model("sscc"))
            os.makedirs(f"{folder}/step_0")
            write_tensor(f"{folder}/step_0/input_0.pb", "x", x)
            subject = Subject(sscc, folder, folder, plan, recipe=False)
            need(run(subject.command(via, "--data", folder, "--steps", 1, "--outputs", f"{folder}/outputs")))
            for i, (name, (*_, expected)) in enumerate(nodes.items()):
                got = read_tensor(f"{folder}/outputs/step_0/output_{i}.pb").astype(np.float64)
                findings.bound(f"half precision, {plan_name}: {name}", relative_l2(got, expected), 1e-3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sscc", required=True)
    parser.add_argument("--via", choices=["run", "mpirun"], default="run")
    arguments = parser.parse_args()
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="sscc-norms-") as model:
        losses, gradients, final = make_model(model)
        for name, plan in PLANS.items():
            with tempfile.TemporaryDirectory(prefix="sscc-norms-") as folder:
                subject = Subject(arguments.sscc, folder, model, plan)
                rows = subject.train(arguments.via, STEPS, "--grads", f"{folder}/gradients", "--final", f"{folder}/final")
                findings.bound(f"{name}: losses", max(relative(row["loss"], loss) for row, loss in zip(rows, losses)), 1e-5)
                for what, expected in (("gradients", gradients), ("final", final)):
                    got = read_safetensors(f"{folder}/{what}")
                    findings.equal(f"{name}: {what} of one side alone", sorted(set(got) ^ set(expected)), [])
                    scale = max(float(np.linalg.norm(value)) for value in expected.values())
                    worst = max(float(np.linalg.norm(got[key] - value)) / scale for key, value in expected.items() if key in got)
                    findings.bound(f"{name}: {what}, of the largest", worst, 1e-5)
                got = read_safetensors(f"{folder}/final")
                states = [key for key in final if "running" in key]
                findings.bound(f"{name}: state", max(relative_l2(got[key], final[key]) for key in states), 1e-5)
    compare_inference(findings, arguments.sscc, arguments.via)
    compare_half(findings, arguments.sscc, arguments.via)
    return findings.report()


if __name__ == "__main__":
    sys.exit(main())
