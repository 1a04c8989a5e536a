#!/usr/bin/python3
"""Checks of plans for large machines: how long they take and what memory they need, and that both grow no faster than the work."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "e2e"))
from golden import CASES  # noqa: E402
from harness import MODELS  # noqa: E402

HERE = os.path.dirname(os.path.realpath(__file__))
SSCC = os.environ.get("SSCC", f"{HERE}/../../build/sscc")
TRANSFORM = [{"axis": "layers.*.mlp.up.weight:1", "split": "tp"}, {"axis": "*/Softmax:-3", "split": "tp"}, {"axis": "wte.weight:0", "split": "tp"},
             {"axis": "input_ids:0", "split": {"time": "${mb}"}}, {"axis": "input_ids:0", "split": "dp"}]
PLAN = {"version": 1, "params": {"tp": 1, "pp": 1, "dp": 1, "mb": 1}, "mesh": {"pp": "${pp}", "dp": "${dp}", "tp": "${tp}"}, "transform": TRANSFORM,
        "assign": [{"stages": "pp", "balance": "flops"}], "order": {"schedule": "1f1b"}}


class Scale(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="sscc-scale-")
        self.addCleanup(temporary.cleanup)
        self.folder = temporary.name
        with open(f"{self.folder}/plan.json", "w", encoding="utf-8") as file:
            json.dump(PLAN, file)

    def decoder(self, **sizes):
        """A folder with a decoder whose weights are declared as external data that is not there."""
        folder = f"{self.folder}/" + "_".join(f"{name}{value}" for name, value in sizes.items())
        words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
        subprocess.run([sys.executable, f"{HERE}/../../tools/make_example.py", "-o", folder, "--external", "not_there.bin", *words],
                       check=True, stdout=subprocess.DEVNULL)
        return folder

    def check(self, model, **settings):
        words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        done = subprocess.run([SSCC, "check", f"{model}/model.onnx", "--train", f"{model}/train.json", "--plan", f"{self.folder}/plan.json", *words,
                               "--diagnostics-format", "json"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        result = json.loads(done.stdout)
        self.assertTrue(result["equivalent"] and result["deadlock_free"])
        return result

    def fastest(self, model, **settings):
        """Of three: what else runs on the machine only adds time."""
        return min((self.check(model, **settings) for _ in range(3)), key=lambda result: result["compile"]["seconds"])

    def seconds(self, model, **settings):
        return self.fastest(model, **settings)["compile"]["seconds"]

    def test_gpt3_on_1024_ranks(self):
        """96 layers and 700 GB of weights, tensor 8 x pipeline 16 x data 8, 192 micro-batches."""
        model = self.decoder(layers=96, hidden=12288, heads=96, sequence=2048, batch=1536, vocabulary=51200)
        result = self.fastest(model, tp=8, pp=16, dp=8, mb=192)
        print(f"{result['compile']['seconds']:.2f} s, {result['compile']['peak_rss_bytes'] / 2**20:.0f} MiB, {result['compile']['steps']}")
        self.assertEqual(result["devices"], 1024)
        self.assertLess(result["compile"]["seconds"], 10)
        self.assertLess(result["compile"]["peak_rss_bytes"], 2**30)

    def test_proofs_take_less_than_the_rest(self):
        """Over the plans of the golden tests: the checkers together against all passes before them."""
        proofs = rest = 0
        for model, plan in CASES.values():
            with open(f"{self.folder}/plan.json", "w", encoding="utf-8") as file:
                json.dump({"version": 1, **{key: value for key, value in plan.items() if key != "cluster"}}, file)
            for step, seconds in self.check(f"{MODELS}/{model}")["compile"]["steps"].items():
                proofs += seconds if step.startswith("check_") else 0
                rest += 0 if step.startswith("check_") else seconds
        print(f"{len(CASES)} plans: proofs {proofs:.2f} s, the rest {rest:.2f} s")
        self.assertLess(proofs, rest)

    def grows_linearly(self, seconds):
        """Twice the work, at most two and a half times the time."""
        print(" ".join(f"{each:.3f}" for each in seconds))
        for small, large in zip(seconds, seconds[1:]):
            self.assertLess(large, 2.5 * small)

    def test_grows_with_operators(self):
        models = [self.decoder(layers=layers, hidden=64, heads=8, sequence=32, batch=64) for layers in (8, 16, 32, 64)]
        self.grows_linearly([self.seconds(model, tp=4, pp=4, dp=2, mb=8) for model in models])

    def test_grows_with_ranks(self):
        model = self.decoder(layers=16, hidden=64, heads=8, sequence=32, batch=256)
        self.grows_linearly([self.seconds(model, tp=2, pp=2, dp=dp, mb=4) for dp in (4, 8, 16, 32)])

    def test_grows_with_distinct_ranks(self):
        model = self.decoder(layers=32, hidden=64, heads=8, sequence=32, batch=64)
        self.grows_linearly([self.seconds(model, tp=4, pp=pp, dp=1, mb=16) for pp in (2, 4, 8, 16)])

    def test_grows_with_micro_batches(self):
        model = self.decoder(layers=8, hidden=64, heads=8, sequence=32, batch=512)
        self.grows_linearly([self.seconds(model, tp=2, pp=4, dp=1, mb=mb) for mb in (32, 64, 128, 256)])


if __name__ == "__main__":
    unittest.main()
