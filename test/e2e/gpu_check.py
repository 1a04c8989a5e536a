"""All that needs a GPU: golden trajectories of compiled programs, kernels against their references, memory checkers, ranks that die or stall.

    tools/gpu-check prepare FOLDER [--arch sm_90] [--cases CASE,CASE:bf16]
    FOLDER/gpu-check run [--minutes 10] [--report FILE]

`prepare` is for a machine on which sscc is built; `run` for one with a GPU and without sscc. With fewer GPUs than ranks, ranks share one: over NCCL
if it lets them, else over loopback; the report says which. Programs for processors (--target cpu) are checked the same way, as far as they have the
same things.
"""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
IS_CARRIED = os.path.exists(f"{HERE}/cases.json")
# Where the harness looks for readers of tensors: beside this file in a carried folder.
sys.path.insert(0, HERE)
from golden import CASES, compare  # noqa: E402
from harness import MODELS, ROOT, Findings, Subject, need, read_json, read_log, run, write_json  # noqa: E402
from precision import BOUND, STEPS, compare_runs  # noqa: E402

DEFAULT = ["mlp.1", "gpt.1", "gpt.dp2", "gpt.tp2", "gpt.tp2.vocabulary", "gpt.pp2.1f1b.mb4", "gpt.zero3.mb2", "gpt.ulysses4", "gpt.ring.dp4", "gpt.dp2.tp2.pp2",
           "triplane_ar.tp2", "gpt.1:bf16", "gpt.dp2.tp2.pp2:bf16", "gpt.zero3.mb2:bf16", "gpt.1:f16", "gpt.host.state",
           "resnet_bn.1", "resnet_bn.space2.dp2", "resnet_bn.1:bf16"]

# Tests of kernels, and what each is of. cuDNN's are a program of their own, since it does not start where cuDNN is not.
KERNELS = {"test_cuda": "kernels against their references", "test_cudnn": "convolutions by cuDNN against their references"}


# -- where sscc is --------------------------------------------------------------------------------------------------------------------------------


def prepare(arguments):
    folder = os.path.abspath(arguments.folder)
    if os.path.exists(folder):
        sys.exit(f"gpu-check: {folder} exists already")
    names = arguments.cases.split(",")
    unknown = [name for name in names if name.partition(":")[0] not in CASES or name.partition(":")[2] not in ("", *BOUND)]
    if unknown:
        sys.exit(f"gpu-check: there is no case {unknown[0]!r}; test/e2e/golden.py --list")
    os.makedirs(f"{folder}/check")
    for name in names:
        golden_case, _, precision = name.partition(":")
        model, plan = CASES[golden_case]
        case = f"{folder}/cases/{name}"
        os.makedirs(case)
        if precision:
            alone = Subject(arguments.sscc, case, f"{MODELS}/{model}", {})
            write_json(f"{case}/float.json", alone.train("run", STEPS))
        subject = Subject(arguments.sscc, case, f"{MODELS}/{model}", {**plan, **({"precision": precision} if precision else {})})
        architecture = ["--arch", arguments.arch] if arguments.target == "cuda" else []
        need(run([arguments.sscc, *subject.words, "--target", arguments.target, *architecture, "-q", "--emit", "source", "-o", f"{case}/build"]))
        write_json(f"{case}/check.json", subject.check())
        if not os.path.exists(f"{folder}/models/{model}"):
            shutil.copytree(f"{MODELS}/{model}", f"{folder}/models/{model}")
        print(f"{name}: {len(read_json(f'{case}/build/manifest.json')['ranks'])} ranks")
    write_json(f"{folder}/check/cases.json", {"target": arguments.target, "cases": {name: CASES[name.partition(":")[0]][0] for name in names}})
    for source in (__file__, f"{HERE}/golden.py", f"{HERE}/harness.py", f"{HERE}/precision.py", f"{ROOT}/tools/python/onnx_files.py", f"{ROOT}/tools/python/safetensors_files.py"):
        shutil.copy(source, f"{folder}/check")
    shutil.copy(f"{ROOT}/tools/gpu-check", folder)
    built = os.path.join(os.path.dirname(os.path.abspath(arguments.sscc)), "test/unit/cuda")
    if arguments.target == "cuda" and os.path.exists(f"{built}/test_cuda"):
        carry_kernels(folder, *(f"{built}/{name}" for name in (*KERNELS, "libhost_kernels.so") if os.path.exists(f"{built}/{name}")))
    size = sum(os.path.getsize(os.path.join(path, file)) for path, _, files in os.walk(folder) for file in files)
    print(f"{folder}: {size / 2**20:.0f} MiB; there: {folder}/gpu-check run")
    return 0


def carry_kernels(folder, *binaries):
    """The tests of kernels as this machine has compiled them, with what the references need of its packages; packed, they are a third."""
    libraries = set(re.findall(r"=> (\S*/lib(?:dnnl|openblas|gfortran|quadmath|gomp|OpenCL)\S*)", run(["ldd", *binaries]).stdout))
    with tarfile.open(f"{folder}/kernels.tar.xz", "w:xz", preset=3) as packed:
        for file in (*binaries, *sorted(libraries)):
            packed.add(os.path.realpath(file), f"kernels/{os.path.basename(file)}")
    print("kernels:", ", ".join(os.path.basename(file) for file in binaries[:-1]), "as this machine has compiled them")


# -- where the GPU is -----------------------------------------------------------------------------------------------------------------------------


class Case:
    """A golden case that was emitted elsewhere; what `golden.compare` asks of a subject."""

    def __init__(self, root, name, model, ways):
        self.folder, self.model, self.ways = f"{root}/cases/{name}", f"{root}/models/{model}", ways
        self.build = f"{self.folder}/build"
        self.ranks = len(read_json(f"{self.build}/manifest.json")["ranks"])

    def check(self):
        return read_json(f"{self.folder}/check.json")

    def compile(self, runtime):
        """Builds the programs; the library of the runtime, which the first case compiles and the others are given."""
        options = [f"-DSSCC_RUNTIME_LIBRARY={runtime}"] if runtime else []
        need(run(["cmake", "-S", self.build, "-B", f"{self.build}/build", "-G", "Ninja", *options], timeout=600))
        need(run(["ninja", "-C", f"{self.build}/build"], timeout=900))
        return runtime or f"{self.build}/bin/libsscc_rt.so"

    def command(self, *flags):
        return [f"{self.build}/run", "--local", str(self.ranks), *self.ways.flags(self.ranks), *flags]

    def train(self, _, steps, *flags, before=()):
        log = f"{self.folder}/log.jsonl"
        if os.path.exists(log):
            os.remove(log)
        need(run([*before, *self.command("--data", self.model, "--steps", steps, "--log", log, "--timeout", "60", *flags)], timeout=300))
        return read_log(log)


class Ways:
    """How ranks find a GPU each: one for each, or one for all."""

    def __init__(self, target):
        self.gpus = 0
        if target == "cuda":
            listed = run(["nvidia-smi", "-L"]) if shutil.which("nvidia-smi") else None
            self.gpus = len(re.findall(r"^GPU \d", listed.stdout, re.MULTILINE)) if listed else 0
            if self.gpus == 0:
                sys.exit("nvidia-smi lists no GPU here")
        self.shared = "nccl"

    def flags(self, ranks):
        if self.gpus == 0 or ranks <= self.gpus:
            return []
        return ["--one-gpu" if self.shared == "nccl" else "--one-gpu=loopback"]

    def of(self, ranks):
        return "processors" if self.gpus == 0 else "a GPU each" if ranks <= self.gpus else f"one GPU, {self.shared}"

    def find(self, case):
        """NCCL on one GPU, or loopback where it refuses."""
        if not self.flags(case.ranks):
            return
        try:
            need(run(case.command("--data", case.model, "--steps", "1", "--timeout", "30", "--quiet"), timeout=120))
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            print("one GPU over NCCL:", str(error).strip().splitlines()[-1])
            self.shared = "loopback"


class Report:
    """Lines of what was found, and how long it took; whatever is not reached in time is said to be missing."""

    def __init__(self, minutes):
        self.began, self.until, self.rows = time.monotonic(), time.monotonic() + 60 * minutes, []

    def check(self, name, work):
        if time.monotonic() > self.until:
            self.rows.append({"check": name, "result": "not reached", "seconds": 0, "says": ""})
            return
        began = time.monotonic()
        try:
            result, says = work()
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            result, says = "failed", str(error)[-1500:]
        self.rows.append({"check": name, "result": result, "seconds": round(time.monotonic() - began, 1), "says": says})
        print(f"{result:12} {self.rows[-1]['seconds']:6.1f} s  {name}" + (f": {says}" if says else ""), flush=True)

    def end(self, path, **more):
        if path:
            write_json(path, {**more, "checks": self.rows})
        counts = {result: sum(row["result"] == result for row in self.rows) for result in ("ok", "failed", "not reached", "not there")}
        print(", ".join(f"{count} {result}" for result, count in counts.items()), f"in {time.monotonic() - self.began:.0f} s")
        return 1 if counts["failed"] or counts["not reached"] else 0


def machine(target):
    said = {"python": sys.version.split()[0]}
    words = {"gpu": ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], "nvcc": ["nvcc", "--version"]} if target == "cuda" else {}
    for name, command in words.items():
        if shutil.which(command[0]):
            said[name] = (run(command).stdout.strip().splitlines() or [""])[-1]
    return said


def golden(case, precision):
    """Against PyTorch's float32; a small float's run against that of one rank in float."""
    if not precision:
        return "failed" if compare(case, "") else "ok", case.ways.of(case.ranks)
    findings = Findings()
    compare_runs(findings, precision, case.train("", STEPS), read_json(f"{case.folder}/float.json"), BOUND[precision])
    return "failed" if findings.report() else "ok", case.ways.of(case.ranks)


def speed(case):
    """The median of the steps' seconds, and tokens in a second; then call by call and not as graphs, which has to give the same losses."""
    def median(steps):
        return 1000 * sorted(row["seconds"] for row in steps[5:])[len(steps[5:]) // 2]

    rows = case.train("", 20)
    tokens = rows[-1].get("tokens_per_second")
    said = f"median step {median(rows):.2f} ms" + (f", {tokens:.0f} tokens/s" if tokens else "")
    if case.ways.gpus == 0 or "--one-gpu=loopback" in case.ways.flags(case.ranks):
        return "ok", said  # there are no graphs
    plain = case.train("", 20, before=["env", "SSCC_CUDA_GRAPH=0"])
    for row, other in zip(rows, plain):
        if row["loss"] != other["loss"]:
            return "failed", f"step {row['step']}: loss {row['loss']}, and without a graph {other['loss']}"
    return "ok", f"{said}; {median(plain):.2f} ms without a graph"


def under(tool, case):
    """compute-sanitizer finds nothing in one step."""
    if not shutil.which("compute-sanitizer"):
        return "not there", "compute-sanitizer"
    done = run(["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *case.command("--data", case.model, "--steps", "1", "--quiet")], timeout=300)
    return ("ok", "") if done.returncode == 0 else ("failed", (done.stdout + done.stderr)[-1500:])


def outlives(case, what):
    """A rank is killed, or stalls: the others end with status 4 and name it."""
    if case.ways.gpus == 0:
        return "not there", "processes: ranks on processors are threads"
    words = case.command("--data", "synthetic", "--steps", "100000000", "--timeout", "5", "--quiet")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            ranks = []
            for _ in range(300):
                time.sleep(0.1)
                ranks = [pid for pid in children(process.pid) if os.path.basename(executable(pid)) == "launch"]
                if len(ranks) == case.ranks:
                    break
            if len(ranks) != case.ranks:
                return "failed", f"{len(ranks)} of {case.ranks} ranks have started"
            time.sleep(5)
            os.kill(sorted(ranks)[1], what)
            status = process.wait(timeout=60)
        finally:
            try:  # a stopped rank is still there, and holds the pipe
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        says = process.stderr.read()
    is_named = re.search(r"rank 1\b", says)
    return ("ok", says.strip().splitlines()[0][:200]) if status == 4 and is_named else ("failed", f"status {status}: {says[-800:]}")


def children(pid):
    """All processes below one, itself included."""
    found, parents = [], {}
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit():
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    parents.setdefault(int(file.read().rsplit(")", 1)[1].split()[1]), []).append(int(entry))
        except OSError:
            pass
    waiting = [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += parents.get(found[-1], [])
    return [each for each in found if each != pid]


def executable(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""


def run_all(arguments):
    root = os.path.dirname(HERE)
    what = read_json(f"{HERE}/cases.json")
    ways, report = Ways(what["target"]), Report(arguments.minutes)
    said = machine(what["target"])
    print(json.dumps(said))
    cases = {name: Case(root, name, model, ways) for name, model in what["cases"].items()}
    runtime = arguments.runtime and os.path.abspath(arguments.runtime)
    built = []
    # The first case with several ranks brings the whole runtime; one that fails to compile takes no other with it.
    for name, case in sorted(cases.items(), key=lambda each: -each[1].ranks):
        def compile_it(case=case):
            nonlocal runtime
            runtime = case.compile(runtime)
            return "ok", ""
        report.check(f"compile {name}", compile_it)
        if report.rows[-1]["result"] == "ok":
            built.append(name)
    if os.path.exists(f"{root}/kernels.tar.xz"):
        with tarfile.open(f"{root}/kernels.tar.xz") as packed:
            packed.extractall(root)

        def kernels(name):
            done = run(["env", f"LD_LIBRARY_PATH={root}/kernels:" + os.environ.get("LD_LIBRARY_PATH", ""), f"{root}/kernels/{name}"], timeout=300)
            return ("ok" if done.returncode == 0 else "failed"), (done.stdout.strip().splitlines() or [done.stderr[-300:]])[-1]
        for name, what in KERNELS.items():
            if os.path.exists(f"{root}/kernels/{name}"):
                report.check(what, lambda name=name: kernels(name))
    shared = [cases[name] for name in built if cases[name].ranks > 1]
    if shared:
        ways.find(shared[-1])
    for name in sorted(built, key=lambda each: cases[each].ranks):
        report.check(f"golden {name}", lambda name=name: golden(cases[name], name.partition(":")[2]))
    for name in sorted(built, key=lambda each: cases[each].ranks):
        report.check(f"speed {name}", lambda name=name: speed(cases[name]))
    alone = next((cases[name] for name in built if cases[name].ranks == 1), None)
    if alone and ways.gpus:
        for tool in ("memcheck", "racecheck"):
            report.check(f"compute-sanitizer {tool}", lambda tool=tool: under(tool, alone))
    if shared:
        report.check("a rank is killed", lambda: outlives(shared[-1], signal.SIGKILL))
        report.check("a rank stalls", lambda: outlives(shared[-1], signal.SIGSTOP))
    return report.end(arguments.report, machine=said, shared_gpu=ways.shared if ways.gpus else None)


def add_common(making, running, first):
    """Options that all scripts of this kind have; `first`: what compiles the runtime, if nobody gives one."""
    making.add_argument("--sscc", default=f"{ROOT}/build/sscc")
    making.add_argument("--arch", default="sm_90")
    making.add_argument("--target", choices=["cuda", "cpu"], default="cuda")
    running.add_argument("--minutes", type=float, default=10, help="nothing is begun after so long")
    running.add_argument("--report", help="a JSON file for what was found")
    running.add_argument("--runtime", help=f"a libsscc_rt.so made from the same sources; else the first {first} compiles it")


def dispatch(parser, is_carried, preparation, running):
    """Parses the command line and does what it says. An exit status."""
    arguments = parser.parse_args()
    if arguments.verb == "run" and not is_carried:
        sys.exit(f"{parser.prog}: `run` is for a folder that `prepare` has written")
    return preparation(arguments) if arguments.verb == "prepare" else running(arguments)


def main():
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("prepare", help="write the folder")
    making.add_argument("folder")
    making.add_argument("--cases", default=",".join(DEFAULT), help="golden cases, of `test/e2e/golden.py --list`; else %(default)s")
    add_common(making, verbs.add_parser("run", help="build, run, compare"), "case")
    return dispatch(parser, IS_CARRIED, prepare, run_all)


if __name__ == "__main__":
    sys.exit(main())
