#!/usr/bin/python3
"""CUDA rank programs on emulated GPUs (test/emulated_gpu), against golden runs: the sources of a build folder, compiled by the C++ compiler.

    test/e2e/cuda_emulated.py --sscc build/sscc --emulation build/test/emulated_gpu [--keep DIR] [CASE ...]

A case is a golden case, `:bf16` or `:f16` for a precision, `@loopback` where data take the way of the hosts and not NCCL's; `@old_nccl` for an NCCL that
does not keep the order of launches. The order in which GPUs do what streams and events leave open has a seed, another in each case.
"""
import argparse
import concurrent.futures
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import types

import golden
import numpy as np
from gpu_check import outlives
from harness import MODELS, ROOT, Findings, Subject, need, read_json, read_tensor, run
from precision import BOUND, compare_runs

CASES = ["mlp.1", "mlp.1:f16", "mlp.dp4@old_nccl", "gpt.1", "gpt.1:bf16", "gpt.dp2", "gpt.tp2", "gpt.tp2@loopback", "gpt.pp2.1f1b.mb4", "gpt.dp2.tp2.pp2:bf16",
         "resnet_bn.1:bf16", "resnet_bn.space2.dp2"]
SMALL_FLOAT_STEPS = 6


def compile_all(commands):
    """Runs compilers, as many at a time as there are processors."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(lambda words: run(words, timeout=600), commands):
            need(done)


class Emulated(Subject):
    """What golden.compare asks of a subject, on emulated GPUs: programs are compiled when they are first run."""

    def __init__(self, sscc, emulation, folder, model, plan, way, seed):
        os.makedirs(folder, exist_ok=True)
        super().__init__(sscc, folder, model, plan)
        self.emulation, self.way, self.seed = os.path.abspath(emulation), way, seed
        self.build = f"{folder}/build"
        self.records = True  # steps as graphs

    def compile(self, *flags):
        if os.path.exists(self.build):
            return self.build
        need(run([self.sscc, *self.words, "--target", "cuda", "--arch", "sm_90", "--emit", "source", "-q", "-o", self.build, *flags]))
        bin_folder = f"{self.build}/bin"
        os.mkdir(bin_folder)
        checks = ["-fsanitize=alignment,bounds", "-fno-sanitize-recover=all"]
        compiler = ["ccache"] * bool(shutil.which("ccache")) + ["g++", "-std=c++20", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-pthread",
                    "-I", f"{self.build}/src", "-I", f"{self.build}/src/runtime/include", "-isystem", f"{ROOT}/test/emulated_gpu/include"]
        as_cuda = ["-x", "c++", "-D__CUDACC__", "-include", "cuda_runtime.h", *checks]
        link = ["g++", *checks, f"-L{self.emulation}", f"-Wl,-rpath,{self.emulation}:$ORIGIN", "-pthread"]
        libraries = ["-lsscc_rt_emulated", "-lemulated_gpu", "-ldl"]

        def objects_of(pattern, *flags):
            objects = {source: f"{bin_folder}/{os.path.basename(source)}.o" for source in sorted(glob.glob(f"{self.build}/src/{pattern}"))}
            compile_all([*compiler, *flags, "-c", source, "-o", made] for source, made in objects.items())
            return list(objects.values())

        fused = objects_of("fused_*.cu", *as_cuda)
        if fused:
            need(run([*link, "-shared", "-o", f"{bin_folder}/libfused.so", *fused, *libraries]))
        for program in objects_of("program_*.cpp"):
            name = os.path.basename(program).removesuffix(".cpp.o")
            need(run([*link, "-shared", "-o", f"{bin_folder}/{name}.so", program, *[f"{bin_folder}/libfused.so"] * bool(fused), *libraries]))
        need(run([*link, "-o", f"{bin_folder}/launch", *objects_of("model.cpp"), *objects_of("ranks.cpp"), f"{self.emulation}/libsscc_launch_emulated.a", *libraries]))
        return self.build

    def command(self, via, *flags):
        build = self.compile()
        ranks = len(read_json(f"{build}/manifest.json")["ranks"])
        variables = [f"TMPDIR={self.folder}", f"SSCC_EMULATED_GPU_SEED={self.seed}"] + ["SSCC_EMULATED_NCCL_VERSION=22300"] * (self.way == "old_nccl")
        variables += ["SSCC_CUDA_GRAPH=0"] * (not self.records)
        return ["env", *variables, f"{build}/run", "--local", ranks, *["--one-gpu=loopback"] * (self.way == "loopback"), "--timeout", "100", *flags]


def compare_graphs(subject, steps=4):
    """From the second step on a step is one graph; call by call it has to give the same bits. An exit status."""
    findings = Findings()
    graphs = subject.train("", steps)
    subject.records = False
    for graph, calls in zip(graphs, subject.train("", steps)):
        for what in ("loss", "grad_norm", "bytes_sent", "peak_memory_bytes"):
            findings.equal(f"step {graph['step']}, as a graph and call by call: {what}", graph[what], calls[what])
    return findings.report()


def compare(arguments, name, seed, folder):
    """An exit status."""
    if name == "behaviour":
        return Behaviour(arguments, folder).findings.report()
    case, _, way = name.partition("@")
    case, _, precision = case.partition(":")
    model, plan = golden.CASES[case]
    subject = Emulated(arguments.sscc, arguments.emulation, folder, f"{MODELS}/{model}", {**plan, **({"precision": precision} if precision else {})}, way, seed)
    if not precision:
        return golden.compare(subject, "") or (0 if way == "loopback" else compare_graphs(subject))
    os.makedirs(f"{folder}/float")
    expected = Subject(arguments.sscc, f"{folder}/float", f"{MODELS}/{model}", {}).train("run", SMALL_FLOAT_STEPS)
    findings = Findings()
    compare_runs(findings, precision, subject.train("", SMALL_FLOAT_STEPS), expected, BOUND[precision])
    return findings.report()


# -- what is not a number -------------------------------------------------------------------------------------------------------------------------


class Behaviour:
    """What rank programs do when something is wrong: exit statuses, and who is named."""

    def __init__(self, arguments, folder):
        self.findings = Findings()
        self.alone, self.pipeline = (Emulated(arguments.sscc, arguments.emulation, f"{folder}/{case}", f"{MODELS}/gpt", golden.CASES[case][1], "", 1)
                                     for case in ("gpt.1", "gpt.pp2.1f1b.mb4"))
        self.lose_a_rank()
        self.wrong_data(folder)
        self.too_few_gpus()

    def lose_a_rank(self):
        def command(*flags):
            return [str(word) for word in self.pipeline.command("", *flags)]
        ranks = types.SimpleNamespace(ways=types.SimpleNamespace(gpus=1), ranks=2, command=command)
        for what in (signal.SIGKILL, signal.SIGSTOP):
            self.findings.equal(f"rank 1 gets {what.name}", outlives(ranks, what)[0], "ok")

    def wrong_data(self, folder):
        """An index that is out of range, which a kernel meets."""
        model = f"{folder}/wrong_data"
        shutil.copytree(f"{MODELS}/gpt", model)
        tokens = read_tensor(f"{model}/step_0/input_0.pb").copy()
        tokens.flat[7] = 1000
        np.save(f"{model}/step_0/input_0.npy", tokens)
        os.remove(f"{model}/step_0/input_0.pb")
        for subject in (self.alone, self.pipeline):
            done = run(subject.command("", "--data", model, "--steps", 1))
            self.findings.equal("an index of 1000: status", done.returncode, 1)
            self.findings.equal("an index of 1000: is named", "an index of 1000 is outside" in done.stderr, True)

    def too_few_gpus(self):
        for gpus, status, text in (("", 3, "cannot find a GPU"), ("0", 3, "have the same GPU"), ("0,1", 0, "")):
            done = run(["env", f"CUDA_VISIBLE_DEVICES={gpus}", *self.pipeline.command("", "--data", self.pipeline.model, "--steps", 1)])
            self.findings.equal(f"GPUs {gpus or 'none'}: status", (done.returncode, text in done.stderr), (status, True))
        shared = run(["env", "CUDA_VISIBLE_DEVICES=0", *self.pipeline.command("", "--data", self.pipeline.model, "--steps", 1, "--one-gpu")])
        self.findings.equal("one GPU for all: status", (shared.returncode, "data travel through NCCL" in shared.stderr), (0, True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sscc", required=True)
    parser.add_argument("--emulation", required=True, help="the folder with libemulated_gpu.so")
    parser.add_argument("--keep", help="work in this folder and keep it")
    parser.add_argument("--seed", type=int, default=1, help="of the first case")
    parser.add_argument("cases", nargs="*", default=["behaviour", *CASES], metavar="CASE")
    arguments = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory(prefix="sscc-emulated-") as folder:
        for i, name in enumerate(arguments.cases):
            print(f"-- {name}", flush=True)
            try:
                status = compare(arguments, name, arguments.seed + i, f"{arguments.keep or folder}/{name}")
            except (AssertionError, subprocess.SubprocessError) as error:
                print(error)
                status = 1
            if status:
                failed.append(name)
    print("failed: " + ", ".join(failed) if failed else f"{len(arguments.cases)} cases agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
