#!/usr/bin/python3
"""CUDA programs, as far as a machine without a GPU can tell: they compile without a warning, need what they may need, and refuse what they must.

    SSCC=build/sscc test/e2e/cuda.py [-v] [CLASS[.TEST] ...]
"""
import glob
import os
import shutil
import sys
import tempfile
import unittest

from golden import batch, gpt
from harness import ENVIRONMENT, MODELS, ROOT, SKIPPED, Subject, need, read_json, run, write_json

SSCC = os.path.abspath(os.environ.get("SSCC", f"{ROOT}/build/sscc"))
GPT, MLP = f"{MODELS}/gpt", f"{MODELS}/mlp"
ARCH = "sm_90"
NCCL = os.path.exists("/usr/include/nccl.h") or any(os.path.exists(f"{path}/include/nccl.h") for path in ("/usr/local", "/usr/local/cuda"))


class Test(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="sscc-cuda-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def compile(self, model, plan, *flags):
        build = f"{self.folder}/build"
        subject = Subject(SSCC, self.folder, model, plan)
        need(run([SSCC, *subject.words, "--target", "cuda", "--arch", ARCH, "-q", "-o", build, *flags], timeout=900))
        return build

    def linked(self, build):
        return "".join(run(["ldd", f"{build}/bin/{name}"]).stdout for name in os.listdir(f"{build}/bin"))


class Compile(Test):
    """nvcc's warnings are errors in every build folder."""

    def test_one_rank(self):
        build = self.compile(MLP, {})
        self.assertNotRegex(self.linked(build), "nccl|mpi|LLVM|onnx|protobuf")
        manifest = read_json(f"{build}/manifest.json")
        self.assertEqual((manifest["target"], manifest["architectures"]), ("cuda", [ARCH]))
        self.wrong_number_of_processes(build, 2)
        self.no_gpu(build)

    @unittest.skipUnless(NCCL, "NCCL is not there")
    def test_pipeline_of_tensor_parallel_stages(self):
        build = self.compile(GPT, gpt("1f1b", micro_batches=4, pp=2, tp=2))
        self.assertRegex(self.linked(build), "nccl")
        self.assertNotRegex(self.linked(build), "mpi|LLVM|onnx|protobuf")
        self.wrong_number_of_processes(build, 3)

    @unittest.skipUnless(NCCL, "NCCL is not there")
    def test_small_floats_and_the_host(self):
        data = batch(["x:0"], 2)
        self.compile(MLP, {**data, "precision": "bf16", "transform": [*data["transform"], {"state": "*", "store": "host"}],
                           "assign": [{"ops": "/fc2/Gemm", "on": "host"}]})

    def test_half_precision(self):
        self.compile(MLP, {"precision": "f16"})

    def wrong_number_of_processes(self, build, count):
        """Each process sees it in its environment; rank 0 says so."""
        for rank in range(count):
            environment = dict(ENVIRONMENT, RANK=str(rank), WORLD_SIZE=str(count), MASTER_PORT="1")
            command = ["env", *(f"{name}={environment[name]}" for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))]
            done = run([*command, f"{build}/run", "--data", "synthetic"])
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertEqual(f"but {count} processes were started" in done.stderr, rank == 0, done.stderr)

    def no_gpu(self, build):
        """Where there is a GPU this is no test."""
        done = run(["env", "CUDA_VISIBLE_DEVICES=", f"{build}/run", "--data", "synthetic"])
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("cannot find a GPU", done.stderr)


class GpuCheck(Test):
    """tools/gpu-check, as far as processors go: what it carries is complete, and it finds what is wrong."""

    def gpu_check(self, *words):
        return run([f"{self.folder}/carried/gpu-check", "run", "--report", f"{self.folder}/report.json", *words], timeout=600)

    def test_programs_for_processors(self):
        need(run([f"{ROOT}/tools/gpu-check", "prepare", f"{self.folder}/carried", "--sscc", SSCC, "--target", "cpu", "--cases", "mlp.1,gpt.tp2,mlp.1:bf16"]))
        runtime = glob.glob(f"{os.path.dirname(SSCC)}/precompiled/*.so")[0]
        need(self.gpu_check("--runtime", runtime))
        results = {row["check"]: row["result"] for row in read_json(f"{self.folder}/report.json")["checks"]}
        self.assertEqual({name: results[name] for name in ("compile gpt.tp2", "golden mlp.1", "golden gpt.tp2", "golden mlp.1:bf16")},
                         {"compile gpt.tp2": "ok", "golden mlp.1": "ok", "golden gpt.tp2": "ok", "golden mlp.1:bf16": "ok"})
        losses = read_json(f"{self.folder}/carried/models/mlp/losses.json")
        losses["float64"][1] *= 1.01
        write_json(f"{self.folder}/carried/models/mlp/losses.json", losses)
        self.assertEqual(self.gpu_check("--runtime", runtime).returncode, 1)
        results = {row["check"]: row["result"] for row in read_json(f"{self.folder}/report.json")["checks"]}
        self.assertEqual((results["golden mlp.1"], results["golden gpt.tp2"]), ("failed", "ok"))

    def test_usage(self):
        folder = f"{self.folder}/carried"
        self.assertIn("no case 'gpt'", run([f"{ROOT}/tools/gpu-check", "prepare", folder, "--cases", "gpt"]).stderr)
        self.assertIn("'prepare' has written".replace("'", "`"), run([f"{ROOT}/tools/gpu-check", "run"]).stderr)


class Usage(Test):
    def refused(self, words, *texts):
        done = run([SSCC, *words])
        self.assertEqual(done.returncode, 2, done.stderr)
        for text in texts:
            self.assertIn(text, done.stderr)

    def test_flags(self):
        words = Subject(SSCC, self.folder, MLP, {}).words
        self.refused([*words, "--target", "cuda", "--arch", "hopper", "-o", "out"], "sm_80,sm_90", "hopper")
        self.refused([*words, "--target", "cpu", "--arch", "sm_90", "-o", "out"], "--arch")
        self.refused(["run", *words, "--target", "cuda", "--data", MLP], "--target cuda")

    def test_what_is_compiled_for_by_default(self):
        words = Subject(SSCC, self.folder, MLP, {}).words
        done = need(run([SSCC, *words, "--emit", "source", "-o", f"{self.folder}/out"]))
        self.assertIn("sscc: target " + ("cuda" if shutil.which("nvcc") else "cpu"), done.stderr)


if __name__ == "__main__":
    if "Compile" in sys.argv[1:] and not shutil.which(os.environ.get("CUDACXX", "nvcc")):
        print("skipped: nvcc is not found")
        sys.exit(SKIPPED)
    unittest.main()
