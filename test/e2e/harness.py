"""What the end-to-end tests share: starting sscc and mpirun, reading logs and tensors, comparing with golden runs."""
import json
import math
import os
import subprocess
import sys

import numpy as np

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, f"{ROOT}/tools/python")
from onnx_files import read_tensor  # noqa: E402
from safetensors_files import read_safetensors  # noqa: E402

MODELS = f"{ROOT}/test/data/models"   # copies of four of the models below
ALL_MODELS = os.environ.get("SSCC_MODELS", os.path.join(os.path.dirname(ROOT), "shared", "models"))
SKIPPED = 77   # ctest's SKIP_RETURN_CODE
# Containers often run as root and have fewer processors than a test has ranks.
ENVIRONMENT = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1",
                   OMPI_MCA_mpi_yield_when_idle="1", OMPI_MCA_btl_vader_single_copy_mechanism="none", LC_ALL="C")


def run(words, timeout=300, **options):
    """A finished process with its output as text."""
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, errors="replace", timeout=timeout, env=ENVIRONMENT, **options)


def need(done):
    """A process that had to succeed."""
    if done.returncode:
        raise AssertionError(f"{' '.join(done.args)}\nexit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
    return path


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def read_log(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


class Subject:
    """A model, a plan and a folder to work in: everything that sscc is told about them."""

    def __init__(self, sscc, folder, model, plan, recipe=True):
        self.sscc, self.folder, self.model = os.path.abspath(sscc), folder, model
        plan = {"version": 1, **plan}
        cluster = plan.pop("cluster", None)  # no part of a plan: a file of its own
        self.plan = write_json(f"{folder}/plan.json", plan)
        self.words = [f"{model}/model.onnx", "--plan", self.plan] + (["--train", f"{model}/train.json"] if recipe else [])
        if cluster:
            self.words += ["--cluster", write_json(f"{folder}/cluster.json", cluster)]

    def check(self):
        """The JSON object of `sscc check`."""
        return json.loads(need(run([self.sscc, "check", *self.words, "--diagnostics-format", "json"])).stdout)

    def compile(self, *flags):
        """The build folder; compiled the first time."""
        build = f"{self.folder}/build"
        if not os.path.exists(build):
            need(run([self.sscc, *self.words, "--target", "cpu", "-q", "-o", build, *flags], timeout=600))
        return build

    def command(self, via, *flags):
        """The command that runs all ranks: `run` (threads of sscc itself) or `mpirun` (compiled programs)."""
        if via == "run":
            return [self.sscc, "run", *self.words, *flags]
        build = self.compile()
        return ["mpirun", "-n", len(read_json(f"{build}/manifest.json")["ranks"]), f"{build}/run", *flags]

    def train(self, via, steps, *flags):
        """The log of so many steps on the model's own data."""
        log = f"{self.folder}/log.jsonl"
        if os.path.exists(log):
            os.remove(log)
        need(run(self.command(via, "--data", self.model, "--steps", steps, "--log", log, *flags), timeout=600))
        rows = read_log(log)
        if [row["step"] for row in rows] != list(range(steps)):
            raise AssertionError(f"the log has steps {[row['step'] for row in rows]}, not 0 to {steps - 1}")
        return rows


class Findings:
    """Measured differences, each against its bound."""

    def __init__(self):
        self.lines, self.failed = [], 0

    def bound(self, what, value, limit):
        good = value <= limit   # false for nan
        self.failed += not good
        self.lines.append(f"{'ok    ' if good else 'FAILED'} {what}: {value:.2e}, at most {limit:.0e}")

    def equal(self, what, value, expected):
        good = value == expected
        self.failed += not good
        self.lines.append(f"{'ok    ' if good else 'FAILED'} {what}: {value}" + ("" if good else f", expected {expected}"))

    def report(self):
        """Prints the findings; an exit status."""
        print("\n".join(self.lines))
        return 1 if self.failed or not self.lines else 0


def relative(value, reference):
    """Infinite for a value that is not a number, which a log writes as null."""
    if value is None:
        return math.inf
    return abs(value - reference) / max(abs(reference), 1e-30)


def relative_l2(value, reference):
    """2-norm of the difference over that of the reference; infinite for another shape."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    if value.shape != reference.shape:
        return math.inf
    return float(np.linalg.norm(value - reference) / max(np.linalg.norm(reference), 1e-30))


def compare_losses(findings, rows, model):
    """The losses of up to six steps (the sixth has the first batch again) and the gradient norms of the first five."""
    golden, tolerances = read_json(f"{model}/losses.json"), read_json(f"{model}/train.json")["tolerances"]
    losses = [*golden["float64"], golden["after_last_step"]["float64"]][:len(rows)]
    findings.bound(f"{len(rows)} losses", max(relative(row["loss"], loss) for row, loss in zip(rows, losses)), tolerances["loss_rel"])
    findings.bound("gradient norms", max(relative(row["grad_norm"], norm) for row, norm in zip(rows, golden["grad_norm_float64"])),
                   tolerances["grad_norm_rel"])


def compare_gradients(findings, path, model):
    """Gradients of the first step, tensor by tensor, in units of their tolerance."""
    tolerances = read_json(f"{model}/train.json")["tolerances"]
    golden, gradients = np.load(f"{model}/grads_step0.npz"), read_safetensors(path)
    total = math.sqrt(sum(float(np.sum(golden[name].astype(np.float64)**2)) for name in golden.files))
    worst = 0.0
    for name in golden.files:
        reference = golden[name].astype(np.float64)
        if name not in gradients or gradients[name].shape != reference.shape:
            return findings.equal(f"shape of the gradient of {name}", gradients[name].shape if name in gradients else None, reference.shape)
        allowed = tolerances["grad_rel_l2"] * np.linalg.norm(reference) + tolerances["grad_abs_of_total"] * total
        worst = max(worst, float(np.linalg.norm(gradients[name].astype(np.float64) - reference)) / allowed)
    findings.equal("gradients", sorted(gradients), sorted(golden.files)) if set(gradients) != set(golden.files) else None
    return findings.bound(f"{len(golden.files)} gradients, of their tolerance", worst, 1)


def compare_parameters(findings, path, model):
    """Parameters and state after five updates, where the golden run has them."""
    recipe, final = read_json(f"{model}/train.json"), read_safetensors(path)
    if os.path.exists(f"{model}/state_final.npz"):
        state = np.load(f"{model}/state_final.npz")
        worst = max(relative_l2(final.get(name, np.zeros(0)), state[name]) for name in state.files)
        findings.bound(f"{len(state.files)} final values of state", worst, recipe["tolerances"]["state_rel_l2"])
    golden = np.load(f"{model}/params_final.npz")
    worst = max(relative_l2(final.get(name, np.zeros(0)), golden[name]) for name in golden.files if name not in recipe["zero_gradient"])
    findings.bound(f"{len(golden.files)} final parameters", worst, recipe["tolerances"]["param_rel_l2"])


def compare_outputs(findings, folder, model):
    """Outputs of step 0."""
    recipe = read_json(f"{model}/train.json")
    for output in recipe["outputs"]:
        if output["file"]:
            path = f"{folder}/step_0/{output['file']}"
            got = read_tensor(path) if os.path.exists(path) else np.zeros(0)
            findings.bound(f"output {output['name']}", relative_l2(got, read_tensor(f"{model}/step_0/{output['file']}")), recipe["tolerances"]["output_rel_l2"])
