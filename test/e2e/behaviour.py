#!/usr/bin/python3
"""What a person or a script meets around a run: exit statuses, refusals, build folders, failing ranks, inference.

    SSCC=build/sscc test/e2e/behaviour.py [-v] [CLASS[.TEST] ...]
"""
import filecmp
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import xml.etree.ElementTree

import numpy as np

from golden import ULYSSES, gpt, split
from harness import ENVIRONMENT, MODELS, ROOT, Findings, Subject, compare_losses, compare_outputs, need, read_json, read_log, run, write_json
from onnx_files import DOUBLE, FLOAT, INT32, INT64, Graph, read_tensor, write_tensor
from safetensors_files import read_safetensors

SSCC = os.path.abspath(os.environ.get("SSCC", f"{ROOT}/build/sscc"))
GPT, MLP = f"{MODELS}/gpt", f"{MODELS}/mlp"
DATA_2 = {"mesh": {"dp": 2}, "transform": [{"axis": "x:0", "split": "dp"}]}


class Test(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="sscc-behaviour-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def subject(self, model, plan, **more):
        return Subject(SSCC, self.folder, model, plan, **more)

    def expect(self, done, status, *words):
        """An exit status, and words on standard error. Never a crash."""
        text = f"{' '.join(done.args)}\nexit status {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-3000:]}"
        self.assertEqual(done.returncode, status, text)
        for word in words:
            self.assertIn(word, done.stderr, text)


class Status(Test):
    """Exit statuses of sscc."""

    def test_done(self):
        self.expect(run([SSCC, "--version"]), 0)
        self.expect(run([SSCC, "--help"]), 0)
        self.expect(run([SSCC, "check", *self.subject(MLP, {}).words]), 0)

    def test_refused(self):
        plan = self.subject(MLP, {"mesh": {"dp": 2}, "transform": [{"axis": "y:0", "split": "dp"}]})
        self.expect(run([SSCC, "check", *plan.words]), 1, "plan.json:", "[SSC2102]")
        self.expect(run([SSCC, *plan.words, "-o", f"{self.folder}/out"]), 1, "[SSC2102]")
        self.assertFalse(os.path.exists(f"{self.folder}/out"), "a refused plan leaves no folder")

    def test_usage(self):
        subject = self.subject(MLP, {})
        for words in ([], ["check"], ["check", "--no-such-flag", *subject.words], ["check", f"{MLP}/model.onnx"], subject.words,
                      [*subject.words, "--emit", "poetry", "-o", "out"], ["run", *subject.words, "--steps", "many", "--data", MLP]):
            self.expect(run([SSCC, *words]), 2)

    def test_environment(self):
        subject = self.subject(MLP, {})
        self.expect(run([SSCC, "check", f"{self.folder}/nothing.onnx", "--plan", subject.plan]), 3, "nothing.onnx")
        self.expect(run([SSCC, "check", f"{MLP}/model.onnx", "--plan", f"{self.folder}/nothing.json"]), 3, "nothing.json")
        if os.geteuid() != 0:
            os.chmod(self.folder, 0o500)
            self.addCleanup(os.chmod, self.folder, 0o700)
            self.expect(run([SSCC, *subject.words, "-o", f"{self.folder}/out"]), 3, "out")

    def test_file_that_is_no_recipe(self):
        write_json(f"{self.folder}/recipe.json", [1, 2])
        self.expect(run([SSCC, "check", f"{MLP}/model.onnx", "--plan", self.subject(MLP, {}).plan, "--train", f"{self.folder}/recipe.json"]), 1, "recipe.json:1:1")

    def test_json_is_all_of_stdout(self):
        for plan, status in ({}, 0), ({"mesh": {"dp": 64}, "transform": [{"axis": "x:0", "split": "dp"}]}, 1):
            done = run([SSCC, "check", *self.subject(MLP, plan).words, "--diagnostics-format", "json"])
            self.assertEqual(done.returncode, status)
            result = json.loads(done.stdout)
            self.assertEqual(result["ok"], status == 0)
            self.assertEqual("peak_memory_bytes" in result, status == 0)

    def test_standard_input(self):
        with open(self.subject(MLP, {}).plan, encoding="utf-8") as plan:
            self.expect(run([SSCC, "check", f"{MLP}/model.onnx", "--plan", "-"], stdin=plan), 0)
        with open(f"{MLP}/model.onnx", "rb") as model:
            self.expect(run([SSCC, "check", "-", "--plan", self.subject(MLP, {}).plan], stdin=model), 0)


class BuildFolder(Test):
    """What -o DIR holds."""

    def sources(self, folder):
        return sorted(os.path.relpath(os.path.join(place, name), folder) for place, _, names in os.walk(folder) for name in names
                      if os.path.relpath(place, folder).split(os.sep)[0] != "bin")

    def test_is_complete_and_reproducible(self):
        subject = self.subject(MLP, DATA_2)
        for name in ("first", "second"):
            need(run([SSCC, *subject.words, "--target", "cpu", "--emit", "source", "-o", f"{self.folder}/{name}"]))
        names = self.sources(f"{self.folder}/first")
        self.assertEqual(names, self.sources(f"{self.folder}/second"))
        self.assertEqual(filecmp.cmpfiles(f"{self.folder}/first", f"{self.folder}/second", names, shallow=False)[1:], ([], []))
        for name in ("run", "CMakeLists.txt", "manifest.json", "check.json", "schedule.svg", "trace.predicted.json"):
            self.assertIn(name, names)
        self.assertTrue(any(name.startswith("weights/") and name.endswith(".safetensors") for name in names))
        self.assertEqual(len(read_json(f"{self.folder}/first/manifest.json")["ranks"]), 2)
        check = read_json(f"{self.folder}/first/check.json")
        self.assertNotIn("compile", check)
        self.assertTrue(check["equivalent"] and check["deadlock_free"])
        for name, path in (("onnx", f"{MLP}/model.onnx"), ("plan", f"{self.folder}/plan.json"), ("recipe", f"{MLP}/train.json")):
            with open(path, "rb") as file:
                self.assertEqual(check["hashes"][name], hashlib.sha256(file.read()).hexdigest(), name)
        self.assertEqual(len(check["hashes"]["sources"]), 64)
        bars = [event for event in read_json(f"{self.folder}/first/trace.predicted.json")["traceEvents"] if event["ph"] == "X"]
        self.assertEqual({bar["tid"] for bar in bars}, {0, 1})
        self.assertAlmostEqual(max(bar["ts"] + bar["dur"] for bar in bars), check["schedule"]["makespan_s"] * 1e6, delta=0.01)
        rectangles = xml.etree.ElementTree.parse(f"{self.folder}/first/schedule.svg").getroot().iter("{http://www.w3.org/2000/svg}g")
        self.assertEqual(len(list(rectangles)), sum(bar["dur"] > 0 for bar in bars))

    def test_is_replaced_only_where_sscc_wrote_it(self):
        subject, out = self.subject(MLP, {}), f"{self.folder}/out"
        words = [SSCC, *subject.words, "--target", "cpu", "--emit", "source", "-o", out]
        os.makedirs(out)
        write_json(f"{out}/mine.json", {})
        self.expect(run(words), 3, "out", "--force")
        self.assertTrue(os.path.exists(f"{out}/mine.json"))
        self.expect(run([*words, "--force"]), 0)
        self.assertFalse(os.path.exists(f"{out}/mine.json"))
        self.expect(run(words), 0)

    def test_builds_again_elsewhere_and_runs_without_mpirun(self):
        subject = self.subject(MLP, DATA_2)
        need(run([SSCC, *subject.words, "--target", "cpu", "--emit", "source", "-o", f"{self.folder}/build"]))
        os.rename(f"{self.folder}/build", f"{self.folder}/moved")
        need(run(["cmake", "-S", ".", "-B", "again", "-G", "Ninja"], cwd=f"{self.folder}/moved"))
        need(run(["ninja", "-C", "again"], cwd=f"{self.folder}/moved", timeout=600))
        log = f"{self.folder}/log.jsonl"
        need(run([f"{self.folder}/moved/run", "--local", "2", "--data", MLP, "--steps", "6", "--log", log]))
        findings = Findings()
        compare_losses(findings, read_log(log), MLP)
        self.assertEqual(findings.report(), 0)

    def test_needs_nothing_of_the_compiler(self):
        build = self.subject(MLP, {}).compile()
        for name in os.listdir(f"{build}/bin"):
            self.assertNotRegex(run(["ldd", f"{build}/bin/{name}"]).stdout, "LLVM|onnx|protobuf")


class Figures(Test):
    """What `sscc check` says."""

    def test_bytes_of_data_parallelism(self):
        for ranks in 2, 4, 8:
            result = self.subject(GPT, gpt(dp=ranks)).check()
            gradients = 2 * (ranks - 1) * 4 * 218496   # an all-reduce of every gradient, summed over ranks
            extra = result["communication"]["bytes_per_step"] - gradients
            self.assertTrue(0 <= extra <= 2 * (ranks - 1) * 4 * 4, f"{extra} bytes more than the gradients' {gradients}")
            self.assertEqual(result["devices"], ranks)

    # Batch 8, sequence 32, hidden 64, 4 layers, vocabulary 256. What is beside the closed form: scalars (loss, norm), and with a divided vocabulary the
    # statistics of the loss, a few numbers a token.
    ACTIVATION, TABLE, PARAMETERS, TOKENS = 4 * 8 * 32 * 64, 4 * 256 * 64, 4 * 218496, 4 * 8 * 32

    def assert_bytes(self, plan, wanted, statistics=0):
        communication = self.subject(GPT, plan).check()["communication"]
        extra = communication["bytes_per_step"] - wanted
        self.assertTrue(0 <= extra <= statistics + 128, f"{extra} bytes more than {wanted}")
        return communication["by_kind"]

    def test_bytes_of_tensor_parallelism(self):
        for n in 2, 4:
            # 4 all-reduces a layer, one more forward and one more backward with a split vocabulary
            self.assert_bytes(gpt(tp=n), 4 * 4 * 2 * (n - 1) * self.ACTIVATION)
            self.assert_bytes(gpt(tp=n, vocabulary=True), (4 * 4 + 2) * 2 * (n - 1) * self.ACTIVATION, 2 * n * (n - 1) * self.TOKENS)

    def test_bytes_of_sequence_parallelism(self):
        for n in 2, 4:
            plan = gpt(tp=n, vocabulary=True)
            plan["transform"].append({"axis": "input_ids:1", "split": "tp"})
            kinds = self.assert_bytes(plan, (4 * 4 + 2) * 2 * (n - 1) * self.ACTIVATION + 2 * (n - 1) * 4 * 1664, 3 * n * (n - 1) * self.TOKENS)
            self.assertGreaterEqual(kinds["all_gather"]["bytes"], (4 * 4 + 2) * (n - 1) * self.ACTIVATION)
            self.assertGreaterEqual(kinds["reduce_scatter"]["bytes"], (4 * 4 + 2) * (n - 1) * self.ACTIVATION)

    def test_bytes_of_heads_within_sequence(self):
        for n in 2, 4:
            plan = {"mesh": {"cp": n}, "transform": [ULYSSES, {"axis": "input_ids:1", "split": "cp"}]}
            # Queries, keys, values and what attention makes of them, forward and backward: each rank gives away all but its own part of its part.
            # Positions are divided with the sequence.
            kinds = self.assert_bytes(plan, 4 * 8 * (n - 1) * self.ACTIVATION // n + 2 * (n - 1) * (self.PARAMETERS - 4 * 32 * 64))
            self.assertEqual(kinds["all_to_all"], {"count": 4 * 8, "bytes": 4 * 8 * (n - 1) * self.ACTIVATION // n})

    def test_bytes_of_sums_with_copies(self):
        dp, tp = 4, 2
        # What tp does not divide is summed over dp by each rank of tp; the table, which is large, by each half of it, and then told to all.
        divided = 4 * 4 * (2 * 64 * 256 + 256 + 64 * 192 + 192 + 64 * 64)
        copies = tp * 2 * (dp - 1) * (self.PARAMETERS - divided - self.TABLE)
        table = (dp - 1) * self.TABLE + (dp * tp - 1) * self.TABLE
        self.assert_bytes(gpt(dp=dp, tp=tp), 4 * 4 * 2 * (tp - 1) * self.ACTIVATION + 2 * (dp - 1) * divided + copies + table, 256)

    def test_bytes_of_sums_for_others(self):
        # Two devices have shares of a sum that three others need: joined first, then sent, 1 + 3 instead of 2 x 3 times. What these make of it, the
        # two need again.
        down = "/layers.1/mlp/down/"
        plan = {"mesh": {"d": 5}, "transform": [{"ops": f"{down}MatMul", "dim": "k", "split": "tp"}],
                "assign": [{"ops": f"{down}MatMul", "on": {"devices": "0..1", "mesh": {"tp": 2}}}, {"ops": f"{down}Add", "on": {"devices": "2..4"}}]}
        communication = self.subject(GPT, plan, recipe=False).check()["communication"]
        self.assertEqual(communication["bytes_per_step"], (1 + 3 + 2) * self.ACTIVATION)
        self.assertEqual(communication["by_kind"]["reduce_scatter"], {"count": 1, "bytes": self.ACTIVATION})

    def test_bytes_of_pipelines(self):
        for stages in 2, 4:
            between = 2 * (stages - 1) * self.ACTIVATION   # activations and their gradients
            self.assert_bytes(gpt("1f1b", micro_batches=4, pp=stages), between + 2 * self.TABLE)
            self.assert_bytes(gpt("1f1b", micro_batches=4, pp=stages, dp=2), between + 2 * self.PARAMETERS + 2 * 2 * self.TABLE)

    def test_bytes_of_stored_state_and_parameters(self):
        def stored(what, n, micro_batches=1):
            plan = gpt(dp=n, micro_batches=micro_batches)
            return {**plan, "transform": plan["transform"] + [{what: "*", "store": {"split": "dp"}}]}

        for n in 2, 4:
            self.assert_bytes(stored("state", n), 2 * (n - 1) * self.PARAMETERS)
            # Biases, positions and scales of norms are not read backward: what backward does not read is not gathered again.
            backward = self.PARAMETERS - 4 * (4 * (192 + 64 + 256 + 64 + 2 * 64) + 64 + 32 * 64)
            self.assert_bytes(stored("parameters", n), (n - 1) * (2 * self.PARAMETERS + backward))

    def test_equal_ranks_share_a_program(self):
        self.assertEqual(self.subject(GPT, gpt(dp=4)).check()["distinct_programs"], 1)
        self.assertEqual(self.subject(GPT, gpt("1f1b", micro_batches=4, pp=2)).check()["distinct_programs"], 2)

    def test_one_rank_sends_nothing(self):
        result = self.subject(GPT, {}).check()
        self.assertEqual((result["communication"]["bytes_per_step"], result["communication"]["messages_per_step"]), (0, 0))
        self.assertEqual(result["replicated_flops_fraction"], 0)
        self.assertEqual(result["schedule"]["bubble_fraction"], 0)

    def test_bytes_of_halos(self):
        """Rows of images over two ranks. Of what windows see beyond the border only the input lies in files."""
        graph, weight = Graph("rows", 17), np.ones((4, 4, 3, 3), np.float32)
        x = graph.input("x", FLOAT, [2, 4, 12, 8])
        for name, stride in ("/a", 1), ("/b", 1), ("/c", 2):
            x = graph.node("Conv", name, [x, graph.initializer(f"{name}.weight", weight)], pads=[1, 1, 1, 1], strides=[stride, stride])
        graph.output(graph.node("MaxPool", "/d", [x], ["y"], kernel_shape=[2, 2], strides=[2, 2]), FLOAT, [2, 4, 3, 2])
        with open(f"{self.folder}/model.onnx", "wb") as file:
            file.write(graph.model("sscc"))
        plan = {"mesh": {"sp": 2}, "transform": [split("x:2", {"over": "sp", "sizes": [2, 1]})]}
        found = self.subject(self.folder, plan, recipe=False).check()["communication"]
        # /b: a row of both ranks. /c: windows begin a row before what is theirs, so the lower rank needs one. /d: windows lie side by side.
        row = 4 * 2 * 4 * 8
        self.assertEqual(found["by_kind"], {"send": {"count": 3, "bytes": 3 * row}})

    def test_memory_of_libraries(self):
        for target, arguments in {"cpu": [], "cuda": ["--target", "cuda"]}.items():
            subject = self.subject(f"{MODELS}/resnet_bn", {"mesh": {"dp": 2}, "transform": [split("images:0", "dp")]})
            found = json.loads(need(run([subject.sscc, "check", *subject.words, *arguments, "--diagnostics-format", "json"])).stdout)["library_bytes"]
            # The workspaces of kernels and of cuDNN are known; what the driver and NCCL take is not.
            self.assertTrue(all(each == 0 if target == "cpu" else each > (32 + 64 + 256) << 20 for each in found), f"{target}: {found}")

    def test_1f1b_holds_less_than_gpipe(self):
        peak = {s: max(self.subject(GPT, gpt(s, micro_batches=8, pp=2)).check()["peak_memory_bytes"]) for s in ("gpipe", "1f1b")}
        self.assertLess(peak["1f1b"], peak["gpipe"])


class Inference(Test):
    """Without a recipe a plan describes the forward pass."""

    def compare(self, via, plan):
        subject = self.subject(GPT, plan, recipe=False)
        need(run(subject.command(via, "--data", GPT, "--steps", "1", "--outputs", f"{self.folder}/outputs")))
        findings = Findings()
        compare_outputs(findings, f"{self.folder}/outputs", GPT)
        self.assertEqual(findings.report(), 0)

    def test_one_rank(self):
        self.compare("run", {})

    def test_tensor_parallel(self):
        self.compare("run", gpt(tp=2, vocabulary=True))

    def test_compiled_data_parallel(self):
        self.compare("mpirun", gpt(dp=2))


class State(Test):
    """State that is found in a parameter or in other state, and not computed: everything is read before anything is changed."""

    def test_turned_exchanged_delayed(self):
        graph = Graph("states", 17)
        x = graph.input("x", FLOAT, [4, 4])
        start = {name: np.arange(16, dtype=np.float32).reshape(4, 4) + shift for name, shift in {"t": 0, "a": 20, "b": 40, "late": 60, "w": 1}.items()}
        for name, value in start.items():
            graph.initializer(name, value)
        total = x
        for name in start:   # all are read, so that all are at home wherever x is
            total = graph.node("Add", f"/{name}", [total, name])
        graph.node("Transpose", "/Transpose", ["t"], ["turned"], perm=[1, 0])
        for name in "a", "b", "w":
            graph.node("Identity", f"/{name}/Identity", [name], [f"same_{name}"])
        graph.node("ReduceSum", "/ReduceSum", [total], ["loss"], keepdims=0)
        graph.output("loss", FLOAT, [])
        with open(f"{self.folder}/model.onnx", "wb") as file:
            file.write(graph.model("sscc"))
        states = {"t": "turned", "a": "same_b", "b": "same_a", "late": "same_w"}
        write_json(f"{self.folder}/train.json", {"loss": {"kind": "graph_output", "output": "loss"}, "optimizer": {"kind": "sgd", "lr": 1.0},
                                                 "parameters": ["w"], "state": [{"initializer": k, "updated_by": v} for k, v in states.items()]})
        os.makedirs(f"{self.folder}/step_0")
        write_tensor(f"{self.folder}/step_0/input_0.pb", "x", np.zeros((4, 4), np.float32))
        # The gradient of w is 1 everywhere, so w falls by 1 a step; `late` is what w was a step before.
        wanted = {"t": start["t"].T, "a": start["b"], "b": start["a"], "late": start["w"] - 2, "w": start["w"] - 3}
        rows = {"axis": "x:0", "split": "d"}
        for plan in {}, {"mesh": {"d": 2}, "transform": [rows]}, {"mesh": {"d": 2}, "transform": [rows, {"parameters": "w", "store": {"split": "d"}}]}:
            subject = self.subject(self.folder, plan)
            need(run(subject.command("run", "--data", self.folder, "--steps", "3", "--final", f"{self.folder}/final")))
            final = read_safetensors(f"{self.folder}/final")
            for name, value in wanted.items():
                np.testing.assert_array_equal(final[name], value, f"{name}, {plan}")


    def test_what_it_is_made_of_is_on_one_rank(self):
        """A rule divides what a parameter alone gives, and its reader has both pieces on one device: then it is whole there."""
        graph = Graph("average", 17)
        x = graph.input("x", FLOAT, [8, 4, 6])
        graph.initializer("running", np.ones(4, np.float32))
        graph.initializer("w", np.ones((4, 6), np.float32))
        y = graph.node("Mul", "/y", [x, "w"])
        old = graph.node("Mul", "/old", ["running", graph.constant("/half", np.float32(0.5))])
        graph.node("Add", "/next", [old, graph.node("ReduceMean", "/mean", [y], axes=[0, 2], keepdims=0)], ["next"])
        graph.node("ReduceSum", "/sum", [y], ["loss"], keepdims=0)
        graph.output("loss", FLOAT, [])
        with open(f"{self.folder}/model.onnx", "wb") as file:
            file.write(graph.model("sscc"))
        write_json(f"{self.folder}/train.json", {"loss": {"kind": "graph_output", "output": "loss"}, "optimizer": {"kind": "sgd", "lr": 0.5},
                                                 "parameters": ["w"], "state": [{"initializer": "running", "updated_by": "next"}]})
        os.makedirs(f"{self.folder}/step_0")
        write_tensor(f"{self.folder}/step_0/input_0.pb", "x", np.ones((8, 4, 6), np.float32))
        subject = self.subject(self.folder, {"mesh": {"a": 2}, "transform": [split("x:1", "a")], "assign": [{"ops": "/next", "on": [0, 0]}]})
        need(run(subject.command("run", "--data", self.folder, "--steps", "1", "--final", f"{self.folder}/final")))
        np.testing.assert_array_equal(read_safetensors(f"{self.folder}/final")["running"], np.full(4, 1.5, np.float32))


class Malformed(Test):
    """Attributes and types that make no sense, of operators that have many: a located refusal, never a crash."""

    def refused(self, what, kind, shape, inputs=(), dtype=np.float32, **attributes):
        with self.subTest(what):
            graph = Graph("odd", 21)
            kinds = {np.float32: FLOAT, np.int32: INT32, np.float64: DOUBLE}
            names = [graph.input("x", kinds[dtype], shape)] + [graph.initializer(f"w{i}", each) for i, each in enumerate(inputs)]
            graph.output(graph.node(kind, "/odd", names, ["y"], **attributes), kinds[dtype], [])
            with open(f"{self.folder}/model.onnx", "wb") as file:
                file.write(graph.model("sscc"))
            done = run([SSCC, "check", f"{self.folder}/model.onnx", "--plan", write_json(f"{self.folder}/plan.json", {"version": 1})], timeout=60)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertRegex(done.stderr, r"error: .*\[SSC10\d\d\] at node '/odd'")

    def test_windows(self):
        image, weight = [1, 4, 6, 6], np.ones((4, 4, 3, 3), np.float32)
        self.refused("strides of 0", "Conv", image, [weight], strides=[0, 1])
        self.refused("three strides", "Conv", image, [weight], strides=[1, 1, 1])
        self.refused("pads of one end", "Conv", image, [weight], pads=[1, 1])
        self.refused("a pad that is negative", "Conv", image, [weight], pads=[-1, 0, 0, 0])
        self.refused("a pad without end", "Conv", image, [weight], pads=[1 << 40, 0, 0, 0])
        self.refused("nothing but padding", "Conv", image, [weight], pads=[9, 0, 0, 0])
        self.refused("a word that is none", "Conv", image, [weight], auto_pad="SAME")
        self.refused("groups that do not divide", "Conv", image, [weight], group=3)
        self.refused("another kernel", "Conv", image, [weight], kernel_shape=[5, 5])
        self.refused("a kernel that does not fit", "Conv", [1, 4, 2, 2], [weight])
        self.refused("no channels", "Conv", image, [np.ones((0, 4, 3, 3), np.float32)])
        self.refused("no channels out", "ConvTranspose", image, [np.ones((4, 0, 3, 3), np.float32)])
        self.refused("two types", "Conv", image, [weight.astype(np.float64)])
        self.refused("a bias of another length", "Conv", image, [weight, np.ones(3, np.float32)])
        self.refused("integers", "Conv", image, [weight.astype(np.int32)], dtype=np.int32)
        self.refused("four dimensions of space", "Conv", [1, 4, 6, 6, 6, 6], [np.ones((4, 4, 3, 3, 3, 3), np.float32)])
        self.refused("a negative output_padding", "ConvTranspose", image, [weight], output_padding=[-1, 0])
        self.refused("an output beyond all windows", "ConvTranspose", image, [weight], output_shape=[99, 99])
        self.refused("no kernel", "MaxPool", image)
        self.refused("more taps than a byte counts", "MaxPool", [1, 1, 64, 64], kernel_shape=[17, 16])
        self.refused("a kernel without end", "MaxPool", image, kernel_shape=[1 << 31, 1 << 31], pads=[(1 << 31) - 1] * 4)
        self.refused("a dilated kernel that steps over all", "MaxPool", [1, 1, 1], kernel_shape=[2], dilations=[2], pads=[1, 1])
        self.refused("the same, summed", "AveragePool", [1, 1, 1], kernel_shape=[2], dilations=[2], pads=[1, 1])
        self.refused("integers", "AveragePool", image, dtype=np.int32, kernel_shape=[2, 2])
        self.refused("nine dimensions", "GlobalAveragePool", [1, 2] + [1] * 7)
        self.refused("no space", "GlobalMaxPool", [1, 4])

    def test_norms(self):
        image, ones = [2, 4, 3], np.ones(4, np.float32)
        self.refused("a scale of another type", "InstanceNormalization", image, [ones.astype(np.float64), ones.astype(np.float64)])
        self.refused("an integer scale", "LayerNormalization", [2, 4], [ones.astype(np.int32)])
        self.refused("a scale of another length", "InstanceNormalization", image, [np.ones(3, np.float32), ones])
        self.refused("a negative epsilon", "InstanceNormalization", image, [ones, ones], epsilon=-1.0)
        self.refused("an epsilon that is no number", "InstanceNormalization", image, [ones, ones], epsilon=math.nan)
        self.refused("a scale that does not broadcast", "RMSNormalization", [2, 4], [np.ones(3, np.float32)])
        self.refused("a scale of more dimensions", "RMSNormalization", [2, 4], [np.ones((5, 2, 4), np.float32)])
        self.refused("groups that do not divide", "GroupNormalization", image, [ones, ones], num_groups=3)
        self.refused("no statistics", "BatchNormalization", image, [ones, ones])


class Extremes(Test):
    """ArgMax and ArgMin along a dimension that ranks share: which rank has the extreme, and which of several, plays no part."""

    def test_positions(self):
        kinds = {"first": ("ArgMax", 0), "last": ("ArgMax", 1), "least": ("ArgMin", 0), "last_least": ("ArgMin", 1)}
        graph = Graph("extremes", 17)
        x = graph.input("x", FLOAT, [8, 7])
        for name, (kind, last) in kinds.items():
            graph.output(graph.node(kind, f"/{name}", [x], [name], axis=1, keepdims=0, select_last_index=last), INT64, [8])
        with open(f"{self.folder}/model.onnx", "wb") as file:
            file.write(graph.model("sscc"))
        data = np.random.RandomState(1).randint(0, 3, (8, 7)).astype(np.float32)
        os.makedirs(f"{self.folder}/step_0")
        write_tensor(f"{self.folder}/step_0/input_0.pb", "x", data)
        mirrored = 6 - np.argmax(data[:, ::-1], 1), 6 - np.argmin(data[:, ::-1], 1)
        wanted = np.argmax(data, 1), mirrored[0], np.argmin(data, 1), mirrored[1]
        in_time = {"axis": "x:1", "split": ["tp", {"time": 2}], "within": {"type": "ArgMax"}}
        for rule in {"axis": "x:1", "split": "tp"}, {"axis": "x:1", "split": {"over": "tp", "sizes": [1, 3, 3]}}, in_time:
            subject = self.subject(self.folder, {"mesh": {"tp": 3}, "transform": [rule]}, recipe=False)
            need(run(subject.command("run", "--data", self.folder, "--outputs", f"{self.folder}/outputs")))
            for i, positions in enumerate(wanted):
                np.testing.assert_array_equal(read_tensor(f"{self.folder}/outputs/step_0/output_{i}.pb"), positions)


class Threads(Test):
    """Results do not depend on how many threads a rank gets, nor on whether it gets those that it asks for."""

    def test_fewer_than_asked_for(self):
        subject, losses = self.subject(GPT, {}), []
        for environment in [], ["OMP_NUM_THREADS=4"], ["OMP_NUM_THREADS=4", "OMP_THREAD_LIMIT=1"]:
            log = f"{self.folder}/log.jsonl"
            need(run(["env", *environment, *subject.command("run", "--data", GPT, "--steps", "3", "--log", log)]))
            losses.append([row["loss"] for row in read_log(log)])
        self.assertEqual(losses[0], losses[1])
        self.assertEqual(losses[0], losses[2])


class Data(Test):
    """Data that are missing or do not fit are refused with exit status 1, by sscc run and by compiled programs."""

    def refusal(self, spoil, *words):
        subject, data = self.subject(MLP, DATA_2), f"{self.folder}/data"
        for via in "run", "mpirun":
            shutil.rmtree(data, ignore_errors=True)
            shutil.copytree(f"{MLP}/step_0", f"{data}/step_0")
            spoil(f"{data}/step_0")
            self.expect(run(subject.command(via, "--data", data, "--steps", "1", "--timeout", "20")), 1, *words)

    def test_folder_is_missing(self):
        self.refusal(lambda step: shutil.rmtree(os.path.dirname(step)), "data")

    def test_input_is_missing(self):
        self.refusal(lambda step: os.remove(f"{step}/input_0.pb"), "input_0")

    def test_label_is_missing(self):
        self.refusal(lambda step: os.remove(f"{step}/label_0.pb"), "label_0")

    def test_input_has_another_shape(self):
        self.refusal(lambda step: write_tensor(f"{step}/input_0.pb", "x", np.zeros((16, 31), np.float32)), "input_0", "31", "32")

    def test_input_has_another_type(self):
        self.refusal(lambda step: write_tensor(f"{step}/input_0.pb", "x", np.zeros((16, 32), np.int64)), "input_0", "int64", "float32")

    def test_input_is_cut_short(self):
        self.refusal(lambda step: os.truncate(f"{step}/input_0.pb", 1000), "input_0")

    def test_label_out_of_range(self):
        self.refusal(lambda step: write_tensor(f"{step}/label_0.pb", "labels", np.full(16, 16, np.int64)), "16")


class Ranks(Test):
    """Compiled programs whose ranks are too many, or fail."""

    def test_wrong_number_of_processes(self):
        build = self.subject(MLP, DATA_2).compile()
        for count in 1, 3:
            self.expect(run(["mpirun", "-n", str(count), f"{build}/run", "--data", MLP, "--steps", "1"]), 2, "2", str(count))

    def test_usage(self):
        build = self.subject(MLP, DATA_2).compile()
        self.expect(run([f"{build}/run", "--local", "2", "--no-such-flag"]), 2, "--no-such-flag")
        for flag in "--save", "--resume":
            self.expect(run([f"{build}/run", "--local", "2", "--data", MLP, flag, "x"]), 2, flag)

    def test_trace(self):
        """Two stages: what each rank did lies within its steps, one operator after the other."""
        subject = self.subject(GPT, gpt("1f1b", pp=2, micro_batches=4))
        need(run([SSCC, "run", *subject.words, "--data", GPT, "--steps", "3", "--trace", f"{self.folder}/new/trace.json"]))
        events = read_json(f"{self.folder}/new/trace.json")["traceEvents"]
        for rank in 0, 1:
            spans = [(event["ts"], event["ts"] + event["dur"], event) for event in events if event["ph"] == "X" and event["tid"] == rank]
            steps = sorted(span for span in spans if span[2]["cat"] == "step")
            self.assertEqual([step["name"] for _, _, step in steps], ["step 0", "step 1", "step 2"])
            done = sorted((span for span in spans if span[2]["cat"] != "step"), key=lambda span: span[:2])
            softmax = "/layers.0/attn/Softmax" if rank == 0 else "/layers.3/attn/Softmax"
            self.assertTrue(any(softmax in event["name"].split(", ") for _, _, event in done))
            self.assertEqual({event["args"]["micro_batch"] for _, _, event in done}, {0, 1, 2, 3})
            for begin, end, event in done:
                first, last, _ = steps[event["args"]["step"]]
                self.assertTrue(first - 0.01 <= begin <= end <= last + 0.01, event)
            for (_, end, _), (begin, _, event) in zip(done, done[1:]):
                self.assertLessEqual(end, begin + 0.01, event)
        self.expect(run([SSCC, "run", *subject.words, "--data", GPT, "--steps", "1", "--trace", "/proc/no/trace.json"]), 3, "/proc/no")

    def start(self):
        """A long run of two ranks; (mpirun's process, process ids of the ranks by rank). Returns once steps are being made."""
        build, log = self.subject(MLP, DATA_2).compile(), f"{self.folder}/log.jsonl"
        output = open(f"{self.folder}/output.txt", "w", encoding="utf-8")
        self.addCleanup(output.close)
        words = ["mpirun", "-n", "2", f"{build}/run", "--data", MLP, "--steps", "100000000", "--timeout", "5", "--log", log]
        process = subprocess.Popen(words, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        self.addCleanup(process.wait)
        self.addCleanup(lambda: process.poll() is None and process.kill())
        deadline = time.time() + 60
        while time.time() < deadline and not (os.path.exists(log) and os.path.getsize(log)):
            time.sleep(0.1)
            self.assertIsNone(process.poll(), "mpirun ended early")
        return process, self.ranks_of(process.pid)

    def ranks_of(self, parent):
        """{rank: process id} of a process's children, by the variable that Open MPI gives them."""
        ranks = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8") as stat, open(f"/proc/{name}/environ", "rb") as environment:
                    if int(stat.read().rsplit(")", 1)[1].split()[1]) == parent:
                        variables = dict(v.split(b"=", 1) for v in environment.read().split(b"\0") if b"=" in v)
                        ranks[int(variables[b"OMPI_COMM_WORLD_RANK"])] = int(name)
            except (OSError, KeyError):
                continue   # it ended, or is no rank
        self.assertEqual(sorted(ranks), [0, 1])
        return ranks

    def end(self, process, within):
        """Its exit status and output; it has to end in so many seconds."""
        begin = time.time()
        try:
            process.wait(within)
        except subprocess.TimeoutExpired:
            self.fail(f"still running {time.time() - begin:.0f} s after a rank failed")
        with open(f"{self.folder}/output.txt", encoding="utf-8", errors="replace") as file:
            return process.returncode, file.read()

    def test_a_rank_is_killed(self):
        process, ranks = self.start()
        os.kill(ranks[1], signal.SIGKILL)
        status, output = self.end(process, 20)
        self.assertNotEqual(status, 0)
        self.assertIn("rank 1", output)

    def test_a_rank_stops(self):
        process, ranks = self.start()
        os.kill(ranks[1], signal.SIGSTOP)
        status, output = self.end(process, 40)
        self.assertNotEqual(status, 0)
        self.assertRegex(output, r"rank 0 waited .*rank 1")


class Templates(Test):
    """plans/*.json fit the models that they are written for, and the example's plans fit the example."""

    def test_plans(self):
        for name in sorted(os.listdir(f"{ROOT}/plans")):
            if name.endswith(".json") and not name.endswith(".schema.json"):
                with self.subTest(name):
                    self.expect(run([SSCC, "check", f"{GPT}/model.onnx", "--train", f"{GPT}/train.json", "--plan", f"{ROOT}/plans/{name}"]), 0)

    def test_example(self):
        example = f"{ROOT}/examples/gpt"
        for plan in "plan.json", "one_rank.json":
            self.expect(run([SSCC, "check", f"{example}/model.onnx", "--train", f"{example}/train.json", "--plan", f"{example}/{plan}"]), 0)

    def test_example_is_what_its_program_writes(self):
        need(run([f"{ROOT}/tools/make_example.py", "-o", self.folder]))
        need(run([f"{ROOT}/test/data/make_small_models.py", f"{self.folder}/small"]))
        for ours, theirs in (("", "examples/gpt"), ("small/", "test/data/small")):
            names = [n for n in os.listdir(f"{self.folder}/{ours}") if os.path.isfile(f"{self.folder}/{ours}{n}")]
            self.assertEqual(filecmp.cmpfiles(f"{self.folder}/{ours}", f"{ROOT}/{theirs}", names, shallow=False)[1:], ([], []))


class Speed(Test):
    """How fast the compiler is. Alone on the machine, and not under sanitizers."""

    def test_check_of_gpt_for_8_ranks(self):
        subject = self.subject(GPT, gpt("1f1b", vocabulary=True, micro_batches=4, pp=2, dp=2, tp=2))
        self.assertLess(min(subject.check()["compile"]["seconds"] for _ in range(5)), 0.1)

    def test_compiling_gpt_for_8_ranks_from_cold(self):
        subject = self.subject(GPT, gpt("1f1b", vocabulary=True, micro_batches=4, pp=2, dp=2, tp=2))
        cold = dict(ENVIRONMENT, XDG_CACHE_HOME=f"{self.folder}/cache", CCACHE_DISABLE="1")
        begin = time.time()
        done = subprocess.run([SSCC, *subject.words, "--target", "cpu", "-o", f"{self.folder}/build"], env=cold, capture_output=True, text=True)
        self.expect(done, 0)
        self.assertLess(time.time() - begin, 25)


if __name__ == "__main__":
    unittest.main()
