#!/usr/bin/python3
"""The whole collection of golden models, where it is beside the repository (or at $SSCC_MODELS): each one either trains as its golden run says, or is
refused with a located diagnostic. The copies in test/data/models must be the collection's own.

    test/e2e/all_models.py --sscc build/sscc
"""
import argparse
import filecmp
import os
import sys
import tempfile

from harness import ALL_MODELS, MODELS, SKIPPED, Findings, Subject, compare_gradients, compare_losses, compare_outputs, need, run


def files_below(folder):
    return sorted(os.path.relpath(os.path.join(place, name), folder) for place, _, names in os.walk(folder) for name in names)


def compare_copies(findings):
    for model in sorted(os.listdir(MODELS)):
        names = files_below(f"{ALL_MODELS}/{model}")
        _, different, missing = filecmp.cmpfiles(f"{ALL_MODELS}/{model}", f"{MODELS}/{model}", names, shallow=False)
        findings.equal(f"test/data/models/{model}: files that differ or are missing", different + missing, [])


def try_model(findings, sscc, name):
    with tempfile.TemporaryDirectory(prefix="sscc-model-") as folder:
        subject = Subject(sscc, folder, f"{ALL_MODELS}/{name}", {})
        checked = run([sscc, "check", *subject.words])
        if checked.returncode == 1:
            refusals = [line for line in checked.stderr.splitlines() if ": error: " in line and "[SSC" in line]
            findings.equal(f"{name}: refused with a diagnostic ({refusals[0] if refusals else checked.stderr[-300:]})", bool(refusals), True)
            return
        need(checked)
        rows = subject.train("run", 6, "--grads", f"{folder}/gradients", "--outputs", f"{folder}/outputs")
        findings.lines.append(f"{name}:")
        compare_losses(findings, rows, subject.model)
        compare_gradients(findings, f"{folder}/gradients", subject.model)
        compare_outputs(findings, f"{folder}/outputs", subject.model)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sscc", required=True)
    sscc = os.path.abspath(parser.parse_args().sscc)
    if not os.path.isdir(ALL_MODELS):
        print(f"skipped: {ALL_MODELS} is not there")
        return SKIPPED
    findings = Findings()
    compare_copies(findings)
    for name in sorted(os.listdir(ALL_MODELS)):
        if os.path.exists(f"{ALL_MODELS}/{name}/train.json"):
            try_model(findings, sscc, name)
    return findings.report()


if __name__ == "__main__":
    sys.exit(main())
