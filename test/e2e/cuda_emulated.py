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
import subprocess
import sys
import tempfile

import golden
from harness import MODELS, ROOT, Findings, Subject, need, read_json, run
from precision import BOUND, compare_runs

CASES = ["mlp.1", "mlp.dp4", "gpt.1", "gpt.1:bf16", "gpt.1:f16", "gpt.dp2", "gpt.tp2", "gpt.tp2@loopback", "gpt.pp2.1f1b.mb4", "gpt.pp2.1f1b.mb4@old_nccl", "gpt.dp2.tp2.pp2:bf16"]
SMALL_FLOAT_STEPS = 10


def compile_all(commands):
    """Runs compilers, as many at a time as there are processors."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in pool.map(lambda words: run(words, timeout=600), commands):
            need(done)


class Emulated(Subject):
    """What golden.compare asks of a subject, on emulated GPUs: programs are compiled when they are first run."""

    def __init__(self, sscc, emulation, folder, model, plan, way, seed):
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
        compiler = ["ccache"] * bool(shutil.which("ccache")) + ["g++", "-std=c++20", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-pthread",
                    "-I", f"{self.build}/src", "-I", f"{self.build}/src/runtime/include", "-isystem", f"{ROOT}/test/emulated_gpu/include"]
        as_cuda = ["-x", "c++", "-D__CUDACC__", "-include", "cuda_runtime.h"]
        sources = [*glob.glob(f"{self.build}/src/*.cpp"), *glob.glob(f"{self.build}/src/*.cu")]
        objects = {source: f"{bin_folder}/{os.path.basename(source)}.o" for source in sources}
        compile_all([*compiler, *(as_cuda if source.endswith(".cu") else []), "-c", source, "-o", objects[source]] for source in sources)
        libraries = [f"-L{self.emulation}", "-lsscc_rt_emulated", "-lemulated_gpu", f"-Wl,-rpath,{self.emulation}:$ORIGIN", "-pthread"]
        of = lambda pattern: sorted(objects[source] for source in sources if glob.fnmatch.fnmatch(os.path.basename(source), pattern))  # noqa: E731
        fused = []
        if of("*.cu"):
            fused = [f"{bin_folder}/libfused.so"]
            need(run(["g++", "-shared", "-o", *fused, *of("*.cu"), *libraries]))
        for program in of("program_*.cpp"):
            name = os.path.basename(program).removesuffix(".cpp.o")
            need(run(["g++", "-shared", "-o", f"{bin_folder}/{name}.so", program, *fused, *libraries]))
        need(run(["g++", "-o", f"{bin_folder}/launch", *of("model.cpp"), *of("ranks.cpp"), f"{self.emulation}/libsscc_launch_emulated.a", *libraries, "-ldl"]))
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
            findings.equal(f"step {graph['step']}, as a graph and call by call: {what}", graph.get(what), calls.get(what))
    return findings.report()


def compare(arguments, name, seed, folder):
    """An exit status."""
    case, _, way = name.partition("@")
    case, _, precision = case.partition(":")
    model, plan = golden.CASES[case]
    os.makedirs(folder)
    subject = Emulated(arguments.sscc, arguments.emulation, folder, f"{MODELS}/{model}", {**plan, **({"precision": precision} if precision else {})}, way, seed)
    if not precision:
        return golden.compare(subject, "") or (0 if way == "loopback" else compare_graphs(subject))
    os.makedirs(f"{folder}/float")
    expected = Subject(arguments.sscc, f"{folder}/float", f"{MODELS}/{model}", {}).train("run", SMALL_FLOAT_STEPS)
    findings = Findings()
    compare_runs(findings, precision, subject.train("", SMALL_FLOAT_STEPS), expected, BOUND[precision])
    return findings.report()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sscc", required=True)
    parser.add_argument("--emulation", required=True, help="the folder with libemulated_gpu.so")
    parser.add_argument("--keep", help="work in this folder and keep it")
    parser.add_argument("--seed", type=int, default=1, help="of the first case")
    parser.add_argument("cases", nargs="*", default=CASES, metavar="CASE")
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
