"""How fast a GPU trains GPT-2 and ResNet-50: programs of sscc beside PyTorch, in turns, in one run; and each kernel beside what the GPU does at most.

    tools/gpu-bench prepare FOLDER [--arch sm_90] [--models 124M:16,1.5B:8,resnet50:256] [--ranks 1]
    FOLDER/gpu-bench run [--minutes 10] [--report FILE]

`prepare` is for a machine on which sscc is built; `run` for one with a GPU and without sscc. Weights are not carried: `run` draws them, the same for
both programs, and the data. Where there is no PyTorch, sscc is measured alone. Losses that differ from PyTorch's make all figures of a model void.
Programs for processors (--target cpu) are measured the same way, which tests this script.
"""
import argparse
import csv
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

import numpy as np

HERE = os.path.dirname(os.path.realpath(__file__))
IS_CARRIED = os.path.exists(f"{HERE}/bench.json")
# Where the harness looks for readers of tensors: beside this file in a carried folder.
sys.path.insert(0, HERE)
import roofline  # noqa: E402
from bench_models import SIZES, describe  # noqa: E402
from gpu_check import Case, Report, Ways, add_common, dispatch, machine  # noqa: E402
from harness import ENVIRONMENT, ROOT, need, read_json, read_log, run, write_json  # noqa: E402
from onnx_files import write_tensor  # noqa: E402
from safetensors_files import read_safetensors, write_safetensors  # noqa: E402

# Dense FLOPs a second in bf16 and bytes a second as NVIDIA states them, by the name of the GPU; the first that fits.
STATED = [("H200 NVL", 835e12, 4.8e12), ("H200|GH200", 989e12, 4.8e12), ("H100 PCIe", 756e12, 2.0e12), ("H100 NVL", 835e12, 3.9e12),
          ("H100", 989e12, 3.35e12), ("A100.*80G", 312e12, 2.0e12), ("A100", 312e12, 1.55e12)]
STEPS_OF_DATA = 8
WARM = 3            # steps at the start of each run that do not count: libraries choose, graphs and code are made
TRACED = 6          # steps that a trace and a profile count
AGREEMENT = 2e-2    # largest relative difference of a loss


# -- where sscc is --------------------------------------------------------------------------------------------------------------------------------


def sizes_of(text, ranks):
    """{name: size} of "124M:16,1.5B"."""
    sizes = {}
    for word in text.split(","):
        name, _, batch = word.partition(":")
        if name not in SIZES or not re.fullmatch(r"[1-9]\d*|", batch):
            sys.exit(f"gpu-bench: '{word}' is not one of {', '.join(SIZES)}, or one with a batch, {name}:8")
        sizes[name] = {**SIZES[name], "batch": ranks * int(batch or SIZES[name]["batch"])}
    return sizes


def prepare(arguments):
    folder = os.path.abspath(arguments.folder)
    if os.path.exists(folder):
        sys.exit(f"gpu-bench: {folder} exists already")
    sizes = sizes_of(arguments.models, arguments.ranks)
    os.makedirs(f"{folder}/check")
    for name, size in sizes.items():
        emit(folder, name, size, arguments)
        print(f"{name}: {arguments.ranks} ranks, batch {size['batch']}")
    write_json(f"{folder}/check/bench.json", {"target": arguments.target, "sizes": sizes})
    sources = [f"{HERE}/{name}.py" for name in ("gpu_bench", "bench_models", "gpu_check", "roofline", "golden", "harness", "precision")]
    sources += [f"{ROOT}/tools/python/{name}.py" for name in
                ("onnx_files", "safetensors_files", "torch_ceilings", "torch_training", *sorted({describe(*each).TORCH for each in sizes.items()}))]
    for source in sources:
        shutil.copy(source, f"{folder}/check")
    shutil.copy(f"{ROOT}/tools/gpu-bench", folder)
    size = sum(os.path.getsize(os.path.join(path, file)) for path, _, files in os.walk(folder) for file in files)
    print(f"{folder}: {size / 2**20:.0f} MiB; there: {folder}/gpu-bench run")
    return 0


def emit(folder, name, size, arguments):
    """The build folder of a model, without its parameters."""
    model, build = f"{folder}/models/{name}", f"{folder}/cases/{name}/build"
    kind = describe(name, size)
    options = {**size, "learning-rate": kind.LEARNING_RATE, "external": "weights.bin"}
    need(run([sys.executable, f"{ROOT}/tools/{kind.WRITER}.py", "-o", model, *(f"--{key}={word_of(value)}" for key, value in options.items())]))
    recipe = read_json(f"{model}/train.json")
    with open(f"{model}/weights.bin", "wb") as file:   # zeros that take no room
        file.truncate(4 * sum(map(math.prod, kind.shapes())))
    plan = {"version": 1, "precision": "bf16"}
    if arguments.ranks > 1:
        plan.update({"mesh": {"dp": arguments.ranks}, "transform": [{"axis": kind.BATCH_AXIS, "split": "dp"}]})
    words = [f"{model}/model.onnx", "--train", f"{model}/train.json", "--plan", write_json(f"{model}/plan.json", plan), "--target", arguments.target]
    words += ["--arch", arguments.arch] if arguments.target == "cuda" else []
    os.makedirs(os.path.dirname(build))
    need(run([arguments.sscc, *words, "-q", "-Wno-replicated", "--emit", "source", "-o", build], timeout=900))
    os.remove(f"{model}/weights.bin")
    os.remove(f"{model}/model.onnx")
    keep_constants(f"{build}/weights", set(recipe["parameters"]))


def word_of(value):
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def keep_constants(weights, parameters):
    """Of the files in a folder of weights, one with what are no parameters."""
    constants = {}
    for file in sorted(os.listdir(weights)):
        if file.endswith(".safetensors"):
            constants.update({name: np.array(array) for name, array in read_safetensors(f"{weights}/{file}").items() if name not in parameters})
        os.remove(f"{weights}/{file}")
    kinds = {np.dtype(np.float32): "F32", np.dtype(bool): "BOOL", np.dtype(np.int64): "I64"}
    write_safetensors(f"{weights}/constants.safetensors",
                      [(name, kinds[each.dtype], each.shape, lambda each=each: each) for name, each in constants.items()])


# -- where the GPU is -----------------------------------------------------------------------------------------------------------------------------


class Model(Case):
    """A model that was emitted elsewhere, and a PyTorch that trains the same one, if there is any."""

    def __init__(self, root, name, size, ways, torch, version):
        """`torch`: a Python that has PyTorch of this version, or None."""
        super().__init__(root, name, name, ways)
        self.kind = describe(name, size)
        self.torch = torch if torch and self.ranks == 1 and int(version.partition(".")[0]) >= self.kind.OLDEST else None
        self.parameters, self.flops = sum(map(math.prod, self.kind.shapes())), self.kind.flops()
        self.runs = {"sscc": [], "PyTorch": []}
        self.eager = [] if ways.gpus else ["--eager"]

    def draw(self):
        """Initial weights and data."""
        of_weights, of_data = (np.random.default_rng(seed) for seed in (1, 2))
        file, parameters = f"{self.build}/weights/parameters.safetensors", set(read_json(f"{self.model}/train.json")["parameters"])
        if not os.path.exists(file):
            tensors = [tensor for tensor in read_json(f"{self.build}/manifest.json")["tensors"] if tensor["name"] in parameters]
            write_safetensors(f"{file}.part", [(each["name"], each["dtype"], each["shape"],
                                                lambda each=each: self.kind.weight(of_weights, each["name"], each["shape"])) for each in tensors])
            os.replace(f"{file}.part", file)
        for step in range(STEPS_OF_DATA):
            os.makedirs(f"{self.model}/step_{step}", exist_ok=True)
            for (name, array), of in zip(self.kind.batch(of_data).items(), ("input", "label")):
                write_tensor(f"{self.model}/step_{step}/{of}_0.pb", name, array)
        return "ok", f"{os.path.getsize(file) / 2**30:.2f} GiB"

    # -- runs

    def run_sscc(self, steps):
        """Seconds of a step are what its log says; `whole` is from line to line of the log, as they come."""
        log, output = f"{self.folder}/log.jsonl", f"{self.folder}/output.txt"
        if os.path.exists(log):
            os.remove(log)
        came, words = [], self.command("--data", self.model, "--steps", str(steps), "--log", log, "--timeout", "120", "--quiet")
        with open(output, "w", encoding="utf-8") as file, subprocess.Popen(words, stdout=file, stderr=file, env=ENVIRONMENT) as process:
            try:
                until = time.perf_counter() + 600
                while process.poll() is None:
                    if time.perf_counter() > until:
                        raise AssertionError("it has not ended after 600 s")
                    time.sleep(0.0005)
                    came += [time.perf_counter()] * (lines_of(log) - len(came))
            finally:
                process.kill()
        if process.returncode:
            with open(output, encoding="utf-8", errors="replace") as file:
                raise AssertionError(f"exit status {process.returncode}: {file.read()[-1500:]}")
        rows = read_log(log)
        came += [time.perf_counter()] * (len(rows) - len(came))
        self.runs["sscc"].append({"losses": [row["loss"] for row in rows], "seconds": [row["seconds"] for row in rows[WARM:]],
                                  "whole": (came[-1] - came[WARM - 1]) / (steps - WARM), "memory_bytes": max(rows[-1]["peak_memory_bytes"])})
        return "ok", self.words_of(self.runs["sscc"][-1])

    def run_torch(self, steps):
        if not self.torch:
            return "not there", f"PyTorch {self.kind.OLDEST} or later" if self.ranks == 1 else "PyTorch on several GPUs"
        words = [self.torch, f"{HERE}/{self.kind.TORCH}.py", "--recipe", f"{self.model}/train.json", "--weights", f"{self.build}/weights",
                 "--data", self.model, "--steps", steps, *self.kind.options_of_torch(), *([] if self.ways.gpus else ["--device", "cpu"])]
        done = run([*words, *self.eager], timeout=900)
        if done.returncode and not self.eager:   # torch.compile wants a compiler and Python's headers
            print(f"PyTorch goes on without torch.compile: {(done.stderr.strip().splitlines() or [''])[-1]}")
            self.eager = ["--eager"]
            done = run([*words, *self.eager], timeout=900)
        found = json.loads(need(done).stdout.strip().splitlines()[-1])
        seconds = found["seconds"][WARM:]
        self.runs["PyTorch"].append({"losses": found["losses"], "seconds": seconds, "whole": statistics.mean(seconds),
                                     "memory_bytes": found["memory_bytes"]})
        return "ok", self.words_of(self.runs["PyTorch"][-1])

    def words_of(self, each):
        median = statistics.median(each["seconds"])
        return f"median step {1e3 * median:.2f} ms, {self.kind.units / median:.0f} {self.kind.UNIT}s/s"

    # -- what they say

    def difference(self):
        """The largest relative one of a loss between the two; None without PyTorch."""
        pairs = [(a, b) for ours in self.runs["sscc"] for theirs in self.runs["PyTorch"] for a, b in zip(ours["losses"], theirs["losses"])]
        return max((abs(a - b) / abs(b) if math.isfinite(a - b) else math.inf for a, b in pairs), default=None)

    def figures(self, peak):
        """All that is reported but for kernels; `peak`: the GPU's FLOPs a second, or None."""
        found = {"size": self.kind.size, "ranks": self.ranks, "parameters": self.parameters, f"flops_per_{self.kind.UNIT}": self.flops,
                 "loss_difference": self.difference(), "pytorch_is_compiled": not self.eager if self.runs["PyTorch"] else None}
        if found["loss_difference"] is not None and not found["loss_difference"] <= AGREEMENT:
            return found
        for name, runs in self.runs.items():
            if runs:
                median = statistics.median(seconds for each in runs for seconds in each["seconds"])
                speed = self.kind.units / median / self.ranks * self.flops
                found[name] = {"median_seconds": median, "whole_seconds": statistics.median(each["whole"] for each in runs),
                               f"{self.kind.UNIT}s_per_second": self.kind.units / median,
                               "tflop_per_second": 1e-12 * speed, "mfu": speed / peak if peak else None,
                               "memory_bytes": runs[-1]["memory_bytes"], "steps": sum(len(each["seconds"]) for each in runs),
                               "losses": runs[-1]["losses"]}
        if "sscc" in found and "PyTorch" in found:
            for key in ("median", "whole"):
                found[f"of_pytorch_by_{key}"] = found["PyTorch"][f"{key}_seconds"] / found["sscc"][f"{key}_seconds"]
        return found

    def kernels(self, ceilings):
        """(rows, rest) of roofline.table, from a traced run of its own."""
        trace = f"{self.folder}/trace.json"
        need(run(self.command("--data", self.model, "--steps", str(WARM + TRACED), "--trace", trace, "--timeout", "120", "--quiet"), timeout=300))
        rank = read_json(f"{self.build}/manifest.json")["ranks"][0]
        source = os.path.splitext(os.path.basename(rank["program"]))[0]
        with open(f"{self.build}/src/{source}.cpp", encoding="utf-8") as file:
            return roofline.table(file.read(), read_json(trace), ceilings, WARM)

    def profile(self):
        """GPU kernels by name, as Nsight Systems saw them: [{"name", "seconds", "calls"}] of all steps."""
        file = f"{self.folder}/profile"
        need(run(["nsys", "profile", "--trace=cuda,nvtx", "--force-overwrite=true", "-o", file,
                  *self.command("--data", self.model, "--steps", str(WARM + TRACED), "--timeout", "120", "--quiet")], timeout=300))
        stats = ["nsys", "stats", "--report=cuda_gpu_kern_sum", "--format=csv", "--output=-", "--force-export=true", f"{file}.nsys-rep"]
        text = need(run(stats, timeout=300)).stdout
        lines = text.splitlines()
        head = next((i for i, line in enumerate(lines) if "Total Time (ns)" in line), None)   # behind words on what it does
        if head is None:
            raise AssertionError(f"nsys stats printed no table: {text[-500:]}")
        return [{"name": row["Name"], "seconds": 1e-9 * float(row["Total Time (ns)"]), "calls": int(row["Instances"])}
                for row in csv.DictReader(lines[head:]) if row.get("Name")]


def lines_of(path):
    try:
        with open(path, "rb") as file:
            return file.read().count(b"\n")
    except FileNotFoundError:
        return 0


def find_torch(wanted, target):
    """(a Python that has PyTorch and NumPy, the version of PyTorch), or (None, why not)."""
    ask = "import numpy, torch; " + ("torch.zeros(1, device='cuda'); " if target == "cuda" else "") + "print(torch.__version__)"
    says = "no Python here"
    for python in [wanted] if wanted else [sys.executable, "python3", "/usr/bin/python3"]:
        if shutil.which(python):
            done = run([python, "-c", ask])
            if done.returncode == 0:
                return python, done.stdout.strip()
            says = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return None, says


def find_cudnn(torch):
    """Where CMake is to look for cuDNN, unless it was told: in the package that PyTorch uses."""
    done = run([torch, "-c", "import nvidia.cudnn; print(nvidia.cudnn.__path__[0])"])
    folder = done.stdout.strip()
    if done.returncode == 0 and os.path.isdir(folder):
        ENVIRONMENT.setdefault("CUDNN_ROOT", folder)


def host_ceilings():
    """Of one processor core or more, as NumPy uses them; small floats are computed in f32 there."""
    def fastest(work):
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        return min(times)

    source, matrix = np.ones(1 << 22, np.float32), np.ones((384, 384), np.float32)
    target, product = np.empty_like(source), np.empty_like(matrix)
    flops = 2 * 384**3 / fastest(lambda: np.matmul(matrix, matrix, out=product))
    return {"from": "a copy and matrix products by NumPy", "bytes_per_second": 2 * source.nbytes / fastest(lambda: np.copyto(target, source)),
            "flops_per_second": {"bf16": flops, "f32": flops}}


def stated(gpu):
    """(FLOPs a second in bf16, bytes a second), as its maker states them, or (None, None)."""
    return next(((flops, moved) for name, flops, moved in STATED if re.search(name, gpu)), (None, None))


def measure_ceilings(target, torch, gpu):
    """What the roofline is made of: by PyTorch, else what the maker states, else None."""
    if target == "cpu":
        return host_ceilings()
    if torch:
        return json.loads(need(run([torch, f"{HERE}/torch_ceilings.py"])).stdout.strip().splitlines()[-1])
    flops, moved = stated(gpu)
    return flops and {"from": "what its maker states", "bytes_per_second": moved, "flops_per_second": {"bf16": flops, "f32": flops}}


def print_figures(name, found):
    kind = describe(name, found["size"])
    unit, units = kind.UNIT, f"{kind.UNIT}s/s"
    print(f"\n{name}: {kind}, {found['parameters']} parameters, {1e-9 * found[f'flops_per_{unit}']:.3g} GFLOP for each {unit}, "
          f"{found['ranks']} ranks, bf16")
    difference = found["loss_difference"]
    if difference is not None and not difference <= AGREEMENT:
        print(f"  no figures: a loss differs from PyTorch's by {difference:.1e} (relative), more than {AGREEMENT:.0e}")
        return
    print(f"  program    median ms   whole ms {units:>10}  TFLOP/s     MFU   memory GiB")
    for program in ("sscc", "PyTorch"):
        if program in found:
            row = found[program]
            mfu = f"{100 * row['mfu']:5.1f} %" if row["mfu"] is not None else "      -"
            memory = f"{row['memory_bytes'] / 2**30:12.2f}" if row["memory_bytes"] is not None else "           -"
            print(f"  {program:8} {1e3 * row['median_seconds']:11.2f} {1e3 * row['whole_seconds']:10.2f} {row[f'{unit}s_per_second']:10.0f} "
                  f"{row['tflop_per_second']:8.3g} {mfu} {memory}")
    if "of_pytorch_by_median" in found:
        how = "" if found["pytorch_is_compiled"] else " (without torch.compile)"
        print(f"  sscc / PyTorch{how}, {units}: {found['of_pytorch_by_median']:.3f} by medians, {found['of_pytorch_by_whole']:.3f} by whole runs; "
              f"losses differ by {difference:.1e} at most (relative)")
    if "roofline" in found:
        print(roofline.text_of(found["roofline"], found["between_kernels"]))
    profile = found.get("profile", [])
    if profile:
        print(f"  by Nsight Systems, {WARM + TRACED} steps that are no graphs:")
    for row in profile[:12]:
        share = row["seconds"] / sum(each["seconds"] for each in profile)
        print(f"  {100 * share:5.1f} % {1e3 * row['seconds']:9.3f} ms {row['calls']:6d} calls  {row['name'][:120]}")


def run_all(arguments):
    root, what = os.path.dirname(HERE), read_json(f"{HERE}/bench.json")
    target, names = what["target"], arguments.models.split(",") if arguments.models else list(what["sizes"])
    unknown = [name for name in names if name not in what["sizes"]]
    if unknown:
        sys.exit(f"gpu-bench: '{unknown[0]}' was not prepared; there are {', '.join(what['sizes'])}")
    ways, report, said = Ways(target), Report(arguments.minutes), machine(target)
    torch, version = find_torch(arguments.python, target)
    said["torch"] = version if torch else None
    if torch and target == "cuda":
        find_cudnn(torch)
    print(json.dumps(said) if torch else f"{json.dumps(said)}\nno PyTorch, so sscc alone: {version}")
    peak, ceilings, found = stated(said.get("gpu", ""))[0], None, {}
    runtime = arguments.runtime and os.path.abspath(arguments.runtime)
    steps = WARM + arguments.steps

    def measure():
        nonlocal ceilings
        ceilings = measure_ceilings(target, torch, said.get("gpu", ""))
        return ("ok", ceilings["from"]) if ceilings else ("not there", f"PyTorch, or figures of {said.get('gpu')}")

    report.check("what the machine does at most", measure)
    for name in names:
        size = what["sizes"][name]
        model = Model(root, name, size, ways, torch, version)

        def compile_it(model=model):
            nonlocal runtime
            runtime = model.compile(runtime)
            return "ok", ""

        report.check(f"compile {name}", compile_it)
        if report.rows[-1]["result"] != "ok":
            continue
        report.check(f"weights and data of {name}", model.draw)
        if model.ranks > 1:
            ways.find(model)
        for _ in range(arguments.rounds):
            report.check(f"{name}: sscc", lambda model=model: model.run_sscc(steps))
            report.check(f"{name}: PyTorch", lambda model=model: model.run_torch(steps))
        figures = model.figures(peak)
        found[name] = figures

        def agree(figures=figures):
            difference = figures["loss_difference"]
            if difference is None:
                return "not there", "losses of both"
            return "ok" if difference <= AGREEMENT else "failed", f"losses differ by {difference:.1e} at most (relative)"

        report.check(f"{name}: the same training", agree)

        def kernels(model=model, figures=figures):
            figures["roofline"], figures["between_kernels"] = model.kernels(ceilings)
            slow = sum(map(roofline.is_slow, figures["roofline"]))
            return "ok", f"{slow} rows above 3 % of the step are below 70 % of what could be"

        if "sscc" in figures:
            report.check(f"{name}: kernels", kernels)
            if ways.gpus:
                report.check(f"{name}: nsys", lambda model=model, figures=figures: profiled(model, figures))
        print_figures(name, figures)
        print(flush=True)
    return report.end(arguments.report, machine=said, peak_flops_per_second=peak, ceilings=ceilings, models=found)


def profiled(model, figures):
    if not shutil.which("nsys"):
        return "not there", "nsys"
    figures["profile"] = model.profile()
    return "ok", f"{len(figures['profile'])} kernels"


def main():
    parser = argparse.ArgumentParser(prog="gpu-bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("prepare", help="write the folder; while it is written, each model needs room for its weights")
    making.add_argument("folder")
    making.add_argument("--models", default="124M,1.5B,resnet50", help=f"of {', '.join(SIZES)}, with a batch or without: 124M:32 (default %(default)s)")
    making.add_argument("--ranks", type=int, default=1, help="data parallel, so many times the batch; PyTorch is compared with one rank only")
    running = verbs.add_parser("run", help="build, run in turns, report")
    running.add_argument("--models", help="some of those that were prepared, by name: 124M")
    running.add_argument("--steps", type=int, default=20, help=f"steps of a run that count, after {WARM} that do not (default %(default)s)")
    running.add_argument("--rounds", type=int, default=2, help="runs of each program (default %(default)s)")
    running.add_argument("--python", help="the Python that has PyTorch; else the first one found")
    add_common(making, running, "model")
    return dispatch(parser, IS_CARRIED, prepare, run_all)


if __name__ == "__main__":
    sys.exit(main())
