#!/usr/bin/python3
"""Training in bf16 and f16: the same 50 steps as in f32, under plans of every kind, stay near the f32 run of one rank.

    test/e2e/precision.py --sscc build/sscc [--via run|mpirun] [CASE ...]

A bf16 value has 8 significant bits: rounding moves it by up to 1/256 of itself. Five times that is how far any of the 50 losses may be from the f32
run's, and the gradients of the first step and the norms of the first five (later the two runs are at different places). f16 has 11 bits; its bound is ten
times 1/2048.
"""
import argparse
import os
import shutil
import sys
import tempfile

import golden
import numpy as np
from harness import MODELS, ROOT, Findings, Subject, read_json, read_safetensors, relative, relative_l2, write_json

BOUND = {"bf16": 2e-2, "f16": 5e-3}
STEPS = 50
CASES = ["mlp.1", "mlp.columns", "gpt.1", "gpt.dp4", "gpt.tp2.vocabulary", "gpt.pp2.1f1b.mb4", "gpt.dp2.tp2.pp2", "gpt.contraction", "gpt.sequence4",
         "gpt.ulysses4", "gpt.ring", "gpt.zero2", "gpt.zero3.mb2", "gpt.turns.tp2", "gpt.sizes_of_micro_batches", "gpt.ring.dp4", "gpt.host.parameters",
         "triplane_ar.dp2.mb2"]
HALF = ["mlp.columns", "gpt.1", "gpt.dp2.tp2.pp2", "gpt.zero2", "gpt.zero3.mb2", "gpt.ring", "gpt.turns.tp2", "gpt.store_at_places", "triplane_ar.dp2.mb2"]
FLOAT = {}  # of each model: the f32 run


def float_run(sscc, model, folder):
    if model not in FLOAT:
        os.makedirs(f"{folder}/{model}")
        subject = Subject(sscc, f"{folder}/{model}", f"{MODELS}/{model}", {})
        gradients = f"{folder}/{model}.safetensors"
        FLOAT[model] = subject.train("run", STEPS, "--grads", gradients), read_safetensors(gradients), subject.check()
    return FLOAT[model]


def compare_runs(findings, what, rows, expected, bound):
    findings.bound(f"{what}: losses", max(relative(row["loss"], other["loss"]) for row, other in zip(rows, expected)), bound)
    findings.bound(f"{what}: norms", max(relative(row["grad_norm"], other["grad_norm"]) for row, other in zip(rows[:5], expected)), bound)


def compare(findings, name, precision, sscc, via, folder):
    model, plan = golden.CASES[name]
    case, bound = f"{precision} {name}", BOUND[precision]
    expected, expected_gradients, float_check = float_run(sscc, model, folder)
    os.makedirs(f"{folder}/{case}")
    subject = Subject(sscc, f"{folder}/{case}", f"{MODELS}/{model}", {**plan, "precision": precision})
    gradients = f"{folder}/{case}.safetensors"
    rows = subject.train(via, STEPS, "--grads", gradients)
    predicted = subject.check()
    compare_runs(findings, case, rows, expected, bound)
    found = read_safetensors(gradients)
    total = sum(float((g ** 2).sum()) for g in expected_gradients.values()) ** 0.5
    worst = max(float(((found[name] - g) ** 2).sum()) ** 0.5 for name, g in expected_gradients.items())
    findings.bound(f"{case}: gradients, of the norm of all together", worst / total, bound)
    findings.equal(f"{case}: proven", (predicted["equivalent"], predicted["deadlock_free"]), (True, True))
    findings.equal(f"{case}: bytes sent in a step", {sum(row["bytes_sent"]) for row in rows}, {predicted["communication"]["bytes_per_step"]})
    findings.equal(f"{case}: peak bytes", rows[-1]["peak_memory_bytes"], predicted["peak_memory_bytes"])
    if name == "gpt.zero3.mb2":  # all but biases, norms and positions is gathered as small floats
        as_float = Subject(sscc, f"{folder}/{case}", f"{MODELS}/{model}", plan).check()
        bytes_of = [each["communication"]["by_kind"]["all_gather"]["bytes"] for each in (predicted, as_float)]
        findings.equal(f"{case}: gathers half of the bytes", 0.5 <= bytes_of[0] / bytes_of[1] < 0.51, True)
    if not plan:
        findings.equal(f"{case}: takes less memory", predicted["peak_memory_bytes"] < float_check["peak_memory_bytes"], True)


def steps_that_do_not_count(findings, sscc, folder):
    """Targets so far off that the first gradients, times the first scale of the loss, are no f16: those steps change nothing but the scale."""
    model = f"{folder}/far"
    os.makedirs(f"{model}/step_0")
    shutil.copy(f"{ROOT}/test/data/small/linear.onnx", f"{model}/model.onnx")
    recipe = read_json(f"{ROOT}/test/data/small/linear.train.json")
    write_json(f"{model}/train.json", {**recipe, "optimizer": {"kind": "adam", "lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}})
    random = np.random.default_rng(1)
    np.save(f"{model}/step_0/input_0.npy", random.standard_normal((8, 16), dtype=np.float32))
    np.save(f"{model}/step_0/input_1.npy", 100 + random.standard_normal((8, 16), dtype=np.float32))
    plan = {"mesh": {"dp": 2}, "transform": [{"axis": "x:0", "split": "dp"}]}
    final = f"{folder}/far.safetensors"
    half = Subject(sscc, model, model, {**plan, "precision": "f16"})
    rows = half.train("run", 10, "--final", final)
    skipped = sum(row["grad_norm"] is None for row in rows)
    found = read_safetensors(final)
    Subject(sscc, model, model, {}).train("run", 10 - skipped, "--final", final)
    findings.equal("a scaled loss: the first step is skipped, and later ones are not", (rows[0]["grad_norm"], 0 < skipped < 8), (None, True))
    findings.equal("a scaled loss: its scale", float(found.pop("loss_scale")), 65536 / 2 ** skipped)
    for name, expected in read_safetensors(final).items():
        findings.bound(f"a scaled loss: {name} after {10 - skipped} steps that count", relative_l2(found[name], expected), BOUND["f16"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sscc", required=True)
    parser.add_argument("--via", choices=["run", "mpirun"], default="run")
    parser.add_argument("cases", nargs="*", default=CASES, metavar="CASE")
    arguments = parser.parse_args()
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="sscc-precision-") as folder:
        for case in arguments.cases:
            compare(findings, case, "bf16", arguments.sscc, arguments.via, folder)
            if case in HALF:
                compare(findings, case, "f16", arguments.sscc, arguments.via, folder)
        steps_that_do_not_count(findings, arguments.sscc, folder)
    return findings.report()


if __name__ == "__main__":
    sys.exit(main())
