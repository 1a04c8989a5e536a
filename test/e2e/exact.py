#!/usr/bin/python3
"""On integer-valued weights and data every sum is exact in float32, in any order: one rank and many ranks must give equal results, bit for bit,
and equal to NumPy's.

    test/e2e/exact.py --sscc build/sscc [--via run|mpirun]
"""
import argparse
import os
import shutil
import sys
import tempfile

import numpy as np

from harness import ROOT, Findings, Subject, read_safetensors
from onnx_files import fields, parse_tensor, write_tensor

STEPS = 1   # a second step would start from weights that are no integers
PLANS = {
    "one rank": {},
    "data 2": {"mesh": {"dp": 2}, "transform": [{"axis": "x:0", "split": "dp"}]},
    "data 8": {"mesh": {"dp": 8}, "transform": [{"axis": "x:0", "split": "dp"}]},
    "data 3, uneven": {"mesh": {"dp": 3}, "transform": [{"axis": "x:0", "split": "dp"}]},
    "inner 2": {"mesh": {"tp": 2}, "transform": [{"axis": "up.weight:1", "split": "tp"}]},
    "inner 3, uneven": {"mesh": {"tp": 3}, "transform": [{"axis": "up.weight:1", "split": "tp"}]},
    "contraction only": {"mesh": {"tp": 4}, "transform": [{"ops": "/down/MatMul", "dim": "k", "split": "tp"}]},
    "micro-batches": {"transform": [{"axis": "x:0", "split": {"time": 4}}]},
    "stages": {"mesh": {"pp": 2}, "transform": [{"axis": "x:0", "split": {"time": 4}}], "assign": [{"stages": "pp", "cut_before": ["/down/*"]}],
               "order": {"schedule": "1f1b"}},
    "data x inner x micro-batches": {"mesh": {"dp": 2, "tp": 2}, "transform": [{"axis": "up.weight:1", "split": "tp"}, {"axis": "x:0", "split": "dp"},
                                                                               {"axis": "x:0", "split": {"time": 2}}]},
    "updates divided": {"mesh": {"dp": 2}, "transform": [{"axis": "x:0", "split": "dp"}, {"ops": {"phase": "update"}, "dim": "d0", "split": "dp"}]},
}


def initializers(path):
    with open(path, "rb") as file:
        graph = next(value for number, _, value in fields(file.read()) if number == 7)
    return dict(parse_tensor(value) for number, _, value in fields(graph) if number == 5)


def reference(weights, x, target, lr=0.5):
    """(loss, gradients, updated weights) of test/data/small/linear.onnx in float64."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    hidden = x @ w["up.weight"] + w["up.bias"]
    error = hidden @ w["down.weight"] + w["down.bias"] - target
    dy = 2 * error / error.size
    dhidden = dy @ w["down.weight"].T
    gradients = {"up.weight": x.T @ dhidden, "up.bias": dhidden.sum(0), "down.weight": hidden.T @ dy, "down.bias": dy.sum(0)}
    return float(np.mean(error * error)), gradients, {name: w[name] - lr * gradients[name] for name in w}


def make_model(folder):
    """The model, its recipe and one batch of small integers."""
    for name in ("onnx", "train.json"):
        target = "model.onnx" if name == "onnx" else name
        shutil.copy(f"{ROOT}/test/data/small/linear.{name}", f"{folder}/{target}")
    random = np.random.RandomState(7)
    x, target = random.randint(-1, 2, (8, 16)), random.randint(-3, 4, (8, 16))
    os.makedirs(f"{folder}/step_0")
    write_tensor(f"{folder}/step_0/input_0.pb", "x", x.astype(np.float32))
    write_tensor(f"{folder}/step_0/input_1.pb", "target", target.astype(np.float32))
    return reference(initializers(f"{folder}/model.onnx"), x.astype(np.float64), target.astype(np.float64))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sscc", required=True)
    parser.add_argument("--via", choices=["run", "mpirun"], default="run")
    arguments = parser.parse_args()
    findings = Findings()
    for name, plan in PLANS.items():
        with tempfile.TemporaryDirectory(prefix="sscc-exact-") as folder:
            loss, gradients, updated = make_model(folder)
            subject = Subject(arguments.sscc, folder, folder, plan)
            rows = subject.train(arguments.via, STEPS, "--grads", f"{folder}/gradients", "--final", f"{folder}/final")
            findings.equal(f"{name}: loss", rows[0]["loss"], loss)
            for what, path, expected in (("gradients", "gradients", gradients), ("weights", "final", updated)):
                got = read_safetensors(f"{folder}/{path}")
                differing = [key for key, value in expected.items() if not np.array_equal(got.get(key), value)]
                findings.equal(f"{name}: {what} that differ", differing, [])
    return findings.report()


if __name__ == "__main__":
    sys.exit(main())
