"""The part of tools/bench that follows the build: the same training steps by `sscc run`, by a compiled program and by PyTorch, in turns, on the same
cores; then where the time of the compiled program goes, if Linux' `perf` is there and allowed."""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
SSCC, WORK = f"{ROOT}/build/sscc", f"{ROOT}/build/bench"
SIZE = {"hidden": 256, "layers": 4, "heads": 4, "sequence": 128, "batch": 8, "vocabulary": 512}
MODEL, RECIPE, PLAN, DATA, LOG = (f"{WORK}/{name}" for name in ("model.onnx", "train.json", "plan.json", "data", "log.jsonl"))
WARM = 3            # steps at the start of each run that do not count
PROFILED = 60       # steps under the profiler
AGREEMENT = 1e-3    # largest relative difference of a loss
PYTHON = "/usr/bin/python3"
# Kernels by the symbols in which a profile finds them, demangled or not; the first that fits. oneDNN makes its code at run time: bare addresses. What
# contract_epilogue does behind a product is a pointwise loop of that name; norms and attention are classes (runtime/kernels).
KERNELS = [("matrix products, convolutions", r"^0x[0-9a-f]+|dnnl|gemm|gemv|exec_blas|blas_memory|contract|[Cc]onvol"),
           ("behind products", r"Epilogue"), ("pointwise, fused or not", r"fused|run_step|rt::pointwise\("),
           ("optimizer update", r"Adam|Momentum|rt::update|update_of"), ("softmax", r"softmax"),
           ("attention", r"[Aa]ttention|(Forward|Backward|Mask|Rows|Task|Matrix)(<|I[fdN])|largest_norm"),
           ("norms", r"(Norm|Gradient)(<|I[fd])|[gG]radient_?[sS]ums|rt::norm"), ("pooling", r"[pP]ool|of_windows|first_taps"),
           ("loss", r"cross_entropy|pick|log_sum_exp"), ("gather, scatter", r"gather|scatter"),
           ("reductions", r"reduce|squares_of|join_row|sum_of"), ("copies", r"convert|copy|memmove|memcpy"), ("threads", r"gomp|GOMP")]


def command(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench: {' '.join(words)}\n{done.stdout}{done.stderr}bench: exit status {done.returncode}")
    return done.stdout


def rows_of(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def prepare(steps):
    shutil.rmtree(WORK, ignore_errors=True)
    os.makedirs(WORK)
    with open(PLAN, "w", encoding="utf-8") as file:
        json.dump({"version": 1, "name": "one rank"}, file)
    command(f"{ROOT}/tools/make_example.py", "-o", WORK, *(f"--{name}={value}" for name, value in SIZE.items()))
    command(f"{ROOT}/tools/make_text_data", "-o", DATA, *(f"--{name}={SIZE[name]}" for name in ("sequence", "batch", "vocabulary")), f"--steps={steps}")
    command(SSCC, MODEL, "--train", RECIPE, "--plan", PLAN, "--target", "cpu", "-q", "-o", f"{WORK}/program")


class Contender:
    def __init__(self, name, words, logs_to_file, **environment):
        self.name, self.words, self.logs_to_file, self.environment = name, words, logs_to_file, environment
        self.seconds, self.losses = [], []

    def median(self):
        return statistics.median(self.seconds)

    def run(self, steps, cores):
        # Threads that the kernels start are bound by the set of cores; OMP_THREAD_LIMIT is for `sscc run`, which counts all processors of the machine.
        environment = dict(os.environ, OMP_THREAD_LIMIT=str(len(cores)), OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", **self.environment)
        words = [*self.words, "--steps", str(steps)]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, cores))
        text = done.stdout
        if self.logs_to_file and done.returncode == 0:
            with open(LOG, encoding="utf-8") as file:
                text = file.read()
        rows = rows_of(text)
        if done.returncode or len(rows) != steps:
            sys.exit(f"bench: {' '.join(words)}\n{done.stdout}{done.stderr}bench: exit status {done.returncode}, {len(rows)} of {steps} steps")
        self.losses = [row["loss"] for row in rows]
        self.seconds += [row["seconds"] for row in rows[WARM:]]


def contenders(threads):
    """sscc's two programs, and PyTorch. With several threads PyTorch has two pools, its own and OpenBLAS', that disturb each other; which setting is best
    depends on the machine, so each is tried, and the best one counts."""
    data = ["--data", DATA, "--log", LOG]

    def torch(name, own, **environment):
        words = [PYTHON, f"{ROOT}/tools/python/torch_gpt.py", "--model", MODEL, "--recipe", RECIPE, "--data", DATA, "--heads", str(SIZE["heads"])]
        return Contender(name, [*words, "--threads", str(own)], False, OPENBLAS_NUM_THREADS=str(threads), **environment)

    torches = [torch("PyTorch", threads)]
    if threads > 1:
        torches += [torch("PyTorch, OMP_WAIT_POLICY=PASSIVE", threads, OMP_WAIT_POLICY="PASSIVE"), torch("PyTorch, threads in BLAS only", 1)]
    return torches, [Contender("sscc run", [SSCC, "run", MODEL, "--train", RECIPE, "--plan", PLAN, *data, "-q"], True),
                     Contender("compiled program", [f"{WORK}/program/run", *data], True)]


def compare(threads, steps, rounds):
    cores = set(sorted(os.sched_getaffinity(0))[:threads])
    torches, ours = contenders(threads)
    for _ in range(rounds):
        for each in torches + ours:
            each.run(steps, cores)
    best = min(each.median() for each in torches)
    for each in torches + ours:
        tokens = SIZE["batch"] * SIZE["sequence"] / each.median()
        print(f"{threads:7d}  {each.name:32s} {each.median() * 1e3:9.1f} {min(each.seconds) * 1e3:9.1f} {tokens:9.0f} {each.median() / best:9.2f}", flush=True)
    worst = max(abs(a - b) / abs(b) for each in ours for a, b in zip(each.losses, torches[0].losses))
    if not worst < AGREEMENT:
        sys.exit(f"bench: a loss differs from PyTorch's by {worst:.1e} (relative); more than {AGREEMENT:.0e}")
    return worst


def time_shares(steps):
    """Prints the share of processor time by kind of kernel, of the compiled program on one core."""
    if not shutil.which("perf"):
        print("no `perf` here, so no shares by kernel (Debian: linux-perf)")
        return
    core = min(os.sched_getaffinity(0))
    file = f"{WORK}/perf.data"
    recorded = subprocess.run(["perf", "record", "-q", "-F", "499", "-e", "cpu-clock", "-o", file, "--", f"{WORK}/program/run", "--local", "1", "--data", DATA,
                               "--steps", str(steps)], capture_output=True, text=True, env=dict(os.environ, OMP_THREAD_LIMIT="1"),
                              preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    report = subprocess.run(["perf", "report", "-i", file, "--stdio", "-q", "--sort", "symbol", "--percent-limit", "0"], capture_output=True, text=True)
    if recorded.returncode or report.returncode:
        print(f"`perf` is not allowed or failed here, so no shares by kernel: {(recorded.stderr + report.stderr).strip()[:200]}")
        return
    shares = {}
    for percent, level, symbol in re.findall(r"^\s*([\d.]+)%\s+\[(.)\]\s+(.+?)\s*$", report.stdout, re.MULTILINE):
        kind = "operating system" if level == "k" else next((name for name, pattern in KERNELS if re.search(pattern, symbol)), "other")
        shares[kind] = shares.get(kind, 0) + float(percent)
    print(f"time of the compiled program by kind of kernel, 1 thread, {steps} steps, start-up included:")
    for kind, share in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"  {share:5.1f} %  {kind}")


def main():
    parser = argparse.ArgumentParser(prog="tools/bench")
    parser.add_argument("--steps", type=int, default=13, help=f"steps of a run, of which the first {WARM} do not count (default 13)")
    parser.add_argument("--rounds", type=int, default=8, help="runs of each program (default 8)")
    parser.add_argument("--threads", default="1,2", help="default 1,2")
    arguments = parser.parse_args()
    if arguments.steps <= WARM:
        parser.error(f"--steps must be more than {WARM}")
    load = os.getloadavg()[0]
    prepare(arguments.steps)
    print("GPT: " + ", ".join(f"{name} {value}" for name, value in SIZE.items()) + "; float32, AdamW, gradient clipping")
    print(f"{arguments.rounds} rounds in turns of {arguments.steps} steps, of which {arguments.steps - WARM} count")
    print(f"load of the machine before: {load:.1f} of {os.cpu_count()} cores; a busy machine makes the figures worthless")
    print("threads  program                          median ms   fastest  tokens/s  / PyTorch")
    worst = 0
    for threads in map(int, arguments.threads.split(",")):
        if threads > len(os.sched_getaffinity(0)):
            print(f"{threads:7d}  (this process may use {len(os.sched_getaffinity(0))} cores only)")
        else:
            worst = max(worst, compare(threads, arguments.steps, arguments.rounds))
    print(f"largest relative difference of a loss from PyTorch's: {worst:.1e}")
    time_shares(PROFILED)


if __name__ == "__main__":
    main()
