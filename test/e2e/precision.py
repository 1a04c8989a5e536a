#!/usr/bin/python3
"""Training in bf16: the same 50 steps as in f32, under plans of every kind, stay near the f32 run of one rank.

    test/e2e/precision.py --sscc build/sscc [--via run|mpirun] [CASE ...]

A bf16 value has 8 bits of mantissa: rounding moves it by up to 1/512 of itself. Ten times that, BOUND, is how far any of the 50 losses may be from the
f32 run's, and the gradients of the first step and the norms of the first five (later the two runs are at different places).
"""
import argparse
import os
import sys
import tempfile

import golden
from harness import MODELS, Findings, Subject, read_safetensors, relative

BOUND = 2e-2
STEPS = 50
CASES = ["mlp.1", "mlp.columns", "gpt.1", "gpt.dp4", "gpt.tp2.vocabulary", "gpt.pp2.1f1b.mb4", "gpt.dp2.tp2.pp2", "gpt.contraction", "gpt.sequence4",
         "gpt.ulysses4", "gpt.ring", "gpt.zero2", "gpt.zero3.mb2", "gpt.turns.tp2", "gpt.sizes_of_micro_batches", "gpt.ring.dp4", "gpt.host.parameters",
         "triplane_ar.dp2.mb2"]
FLOAT = {}  # of each model: the f32 run


def float_run(sscc, model, folder):
    if model not in FLOAT:
        os.makedirs(f"{folder}/{model}")
        subject = Subject(sscc, f"{folder}/{model}", f"{MODELS}/{model}", {})
        gradients = f"{folder}/{model}.safetensors"
        FLOAT[model] = subject.train("run", STEPS, "--grads", gradients), read_safetensors(gradients), subject.check()
    return FLOAT[model]


def compare(findings, case, sscc, via, folder):
    model, plan = golden.CASES[case]
    expected, expected_gradients, float_check = float_run(sscc, model, folder)
    os.makedirs(f"{folder}/{case}")
    subject = Subject(sscc, f"{folder}/{case}", f"{MODELS}/{model}", {**plan, "precision": "bf16"})
    gradients = f"{folder}/{case}.safetensors"
    rows = subject.train(via, STEPS, "--grads", gradients)
    predicted = subject.check()
    findings.bound(f"{case}: losses", max(relative(row["loss"], other["loss"]) for row, other in zip(rows, expected)), BOUND)
    findings.bound(f"{case}: norms", max(relative(row["grad_norm"], other["grad_norm"]) for row, other in zip(rows[:5], expected)), BOUND)
    found = read_safetensors(gradients)
    total = sum(float((g ** 2).sum()) for g in expected_gradients.values()) ** 0.5
    worst = max(float(((found[name] - g) ** 2).sum()) ** 0.5 for name, g in expected_gradients.items())
    findings.bound(f"{case}: gradients, of the norm of all together", worst / total, BOUND)
    findings.equal(f"{case}: proven", (predicted["equivalent"], predicted["deadlock_free"]), (True, True))
    findings.equal(f"{case}: bytes sent in a step", {sum(row["bytes_sent"]) for row in rows}, {predicted["communication"]["bytes_per_step"]})
    findings.equal(f"{case}: peak bytes", rows[-1]["peak_memory_bytes"], predicted["peak_memory_bytes"])
    if not plan:
        findings.equal(f"{case}: takes less memory", predicted["peak_memory_bytes"] < float_check["peak_memory_bytes"], True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sscc", required=True)
    parser.add_argument("--via", choices=["run", "mpirun"], default="run")
    parser.add_argument("cases", nargs="*", default=CASES, metavar="CASE")
    arguments = parser.parse_args()
    findings = Findings()
    with tempfile.TemporaryDirectory(prefix="sscc-precision-") as folder:
        for case in arguments.cases:
            compare(findings, case, arguments.sscc, arguments.via, folder)
    return findings.report()


if __name__ == "__main__":
    sys.exit(main())
