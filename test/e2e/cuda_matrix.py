#!/usr/bin/python3
"""Compiles every golden model that sscc takes, under four kinds of plans, for GPUs: nvcc's warnings are errors. Prints a table of times and sizes.

    test/e2e/cuda_matrix.py --sscc build/sscc [--arch sm_80,sm_90] [--only WORD]

The models are those of the whole collection ($SSCC_MODELS, else beside the repository), or the copies in test/data/models. The runtime is compiled once
before, and is in the cache when programs are timed. Ends with 0 if everything compiled.
"""
import argparse
import os
import shutil
import sys
import tempfile
import time

from harness import ALL_MODELS, MODELS, SKIPPED, Subject, need, read_json, run


def batch(recipe, over):
    """The batch of every input and label."""
    return [{"axis": f"{tensor['name']}:{tensor['batch_axis']}", "split": over} for tensor in recipe["inputs"]]


def pipeline(*rules, schedule):
    return {"mesh": {"pp": 2}, "transform": list(rules), "assign": [{"stages": "pp", "balance": "flops"}], "order": {"schedule": schedule}}


def tensor(rule):
    return {"mesh": {"tp": 2}, "transform": [{**rule, "split": "tp"}]}


def is_of_images(recipe):
    return len(recipe["inputs"][0]["shape"]) > 3


def plans(recipe):
    """By kind: the first that the model lets."""
    return {
        "one rank": [{}],
        "data 2": [{"mesh": {"dp": 2}, "transform": batch(recipe, "dp")}],
        # Rows of images, the columns of every product of matrices, else of every weight.
        "space or tensor 2": [tensor({"axis": f"{recipe['inputs'][0]['name']}:2"})] * is_of_images(recipe) + [tensor({"ops": {"type": kind}, "dim": "n"}) for kind in ("MatMul", "Gemm")] + [tensor({"axis": "*.weight:1"})],
        "pipeline 2": [pipeline(batch(recipe, {"time": 2})[0], schedule="1f1b"), pipeline(schedule="gpipe")],
    }


def bytes_below(folder):
    return sum(os.path.getsize(os.path.join(place, name)) for place, _, names in os.walk(folder) for name in names)


def compile_one(sscc, model, choices, arch):
    """(seconds, programs, bytes of bin) of the first plan that is legal; raises AssertionError where none compiles."""
    for plan in choices:
        with tempfile.TemporaryDirectory(prefix="sscc-matrix-") as folder:
            subject = Subject(sscc, folder, model, plan)
            if run([sscc, "check", *subject.words]).returncode and plan is not choices[-1]:
                continue
            begin = time.monotonic()
            need(run([sscc, *subject.words, "--target", "cuda", "--arch", arch, "-q", "-Wno-replicated", "-Wno-rounded", "-o", f"{folder}/build"],
                     timeout=1800))
            seconds = time.monotonic() - begin
            return seconds, len({rank["program"] for rank in read_json(f"{folder}/build/manifest.json")["ranks"]}), bytes_below(f"{folder}/build/bin")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    arguments.add_argument("--sscc", default="build/sscc")
    arguments.add_argument("--arch", default="sm_80,sm_90")
    arguments.add_argument("--only", default="", help="models whose names hold this word")
    arguments = arguments.parse_args()
    if not shutil.which("nvcc") and not os.path.exists("/usr/local/cuda/bin/nvcc"):
        print("there is no nvcc here")
        return SKIPPED
    sscc, folder = os.path.abspath(arguments.sscc), ALL_MODELS if os.path.isdir(ALL_MODELS) else MODELS
    failures, is_warm = 0, False
    print(f"{'model':16} {'plan':18} {'programs':>8} {'seconds':>8} {'MB of bin':>10}   {arguments.arch}")
    for name in sorted(os.listdir(folder)):
        model = f"{folder}/{name}"
        if arguments.only not in name or not os.path.exists(f"{model}/model.onnx"):
            continue
        recipe = read_json(f"{model}/train.json")
        with tempfile.TemporaryDirectory(prefix="sscc-matrix-") as work:
            if run([sscc, "check", *Subject(sscc, work, model, {}).words]).returncode:
                print(f"{name:16} refused by sscc check: an operator or a recipe that it does not take")
                continue
        for kind, choices in plans(recipe).items():
            try:
                if not is_warm:
                    compile_one(sscc, model, choices, arguments.arch)
                is_warm = True
                seconds, programs, size = compile_one(sscc, model, choices, arguments.arch)
                print(f"{name:16} {kind:18} {programs:8} {seconds:8.1f} {size / 1e6:10.1f}", flush=True)
            except AssertionError as error:
                failures += 1
                print(f"{name:16} {kind:18} FAILED\n{error}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
