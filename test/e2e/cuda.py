#!/usr/bin/python3
"""CUDA programs, as far as a machine without a GPU can tell: they compile without a warning, need what they may need, and refuse what they must.

    SSCC=build/sscc test/e2e/cuda.py [-v] [CLASS[.TEST] ...]
"""
import glob
import json
import math
import os
import shutil
import sys
import tempfile
import unittest

import roofline
from bench_models import SIZES, describe
from golden import batch, gpt
from harness import ENVIRONMENT, MODELS, ROOT, SKIPPED, Subject, need, read_json, read_log, run, write_json

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


class GpuBench(Test):
    """tools/gpu-bench, as far as processors go, and with stand-ins for a GPU's tools; the work of kernels as counted by hand."""

    def setUp(self):
        super().setUp()
        self.carried, self.report = f"{self.folder}/carried", f"{self.folder}/report.json"

    def gpu_bench(self, *words, before=()):
        runtime = glob.glob(f"{os.path.dirname(SSCC)}/precompiled/*.so")[0]
        words = ["--runtime", runtime, "--rounds", "1", "--steps", "4", "--report", self.report, *words]
        return run([*before, f"{self.carried}/gpu-bench", "run", *words])

    def script(self, path, text):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o755)
        return path

    def pytorch(self, losses, compiles=True):
        """What answers as a Python with PyTorch would, with these losses."""
        ceilings = {"from": "a stand-in", "bytes_per_second": 1e12, "flops_per_second": {"bf16": 1e15, "f32": 1e14}}
        trained = {"losses": losses, "seconds": [0.5] * len(losses), "memory_bytes": 1 << 30, "torch": "2"}
        fails = "" if compiles else "[ $# = 11 ] && exit 1; "   # --eager is the twelfth
        return self.script(f"{self.folder}/python", f"#!/bin/sh\ncase $1 in\n  -c) echo 2 ;;\n  *ceilings*) echo '{json.dumps(ceilings)}' ;;\n"
                                                    f"  *) {fails}echo words; echo '{json.dumps(trained)}' ;;\nesac\n")

    def test_runs(self):
        need(run([f"{ROOT}/tools/gpu-bench", "prepare", self.carried, "--sscc", SSCC, "--target", "cpu", "--models", "tiny:2"]))
        self.assertEqual(os.listdir(f"{self.carried}/cases/tiny/build/weights"), ["constants.safetensors"])
        need(self.gpu_bench("--python", f"{self.folder}/no_python"))
        report = read_json(self.report)
        found = report["models"]["tiny"]
        self.assertNotIn("PyTorch", found)
        self.assertEqual({row["result"] for row in report["checks"] if "PyTorch" not in row["check"] and "same" not in row["check"]}, {"ok"})
        self.assertGreater(found["sscc"]["losses"][0], found["sscc"]["losses"][-1])
        self.assertEqual(found["parameters"], 110336)
        # Products: three for each matrix and token, the last one of layers and that of logits; attention: two, then five.
        batch, sequence, hidden, layers, vocabulary = 2, 32, 64, 2, 128
        tokens = batch * sequence
        products = 6 * tokens * (12 * hidden**2 * layers + vocabulary * hidden) + 14 * tokens * sequence * hidden * layers
        self.assertEqual(sum(row["flops"] for row in found["roofline"]), products)
        self.assertTrue(0 <= found["between_kernels"] < 1, found["between_kernels"])
        self.assertEqual([row["spans"] for row in found["roofline"] if row["kernels"].startswith("attention ")], [layers])

        # A machine with a GPU, as far as its tools are asked.
        bench = f"{self.carried}/check/bench.json"
        write_json(bench, {**read_json(bench), "target": "cuda"})
        tools = f"{self.folder}/tools"
        self.script(f"{tools}/nvidia-smi", "#!/bin/sh\n[ $1 = -L ] && echo 'GPU 0: NVIDIA H200' || echo 'NVIDIA H200, 570.1'\n")
        self.script(f"{tools}/nsys", '#!/bin/sh\n[ $1 = profile ] && exit 0\ncat <<END\n\nProcessing [profile.sqlite] with [...]...\n'
                                     'Time (%),Total Time (ns),Instances,Avg (ns),Name\n75.0,3000,2,1500.0,"void k<float, 4>(int, int)"\n'
                                     '25.0,1000,1,1000.0,m\n\nEND\n')
        before = ["env", f"PATH={tools}:{os.environ['PATH']}"]
        need(self.gpu_bench("--python", self.pytorch(found["sscc"]["losses"]), before=before))
        report = read_json(self.report)
        found = report["models"]["tiny"]
        self.assertEqual((report["peak_flops_per_second"], report["ceilings"]["from"], found["loss_difference"]), (989e12, "a stand-in", 0))
        self.assertTrue(found["pytorch_is_compiled"])
        self.assertAlmostEqual(found["of_pytorch_by_median"], 0.5 / found["sscc"]["median_seconds"])
        self.assertAlmostEqual(found["PyTorch"]["mfu"], tokens / 0.5 * found["flops_per_token"] / 989e12)
        self.assertEqual([(row["name"], row["calls"]) for row in found["profile"]], [("void k<float, 4>(int, int)", 2), ("m", 1)])

        # Another training, and without torch.compile: no figures.
        done = self.gpu_bench("--python", self.pytorch([1.03 * loss for loss in found["sscc"]["losses"]], compiles=False), before=before)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no figures", done.stdout)
        found = read_json(self.report)["models"]["tiny"]
        self.assertEqual({"sscc", "PyTorch", "roofline", "of_pytorch_by_median"} & set(found), set())
        self.assertIs(found["pytorch_is_compiled"], False)

    def test_resnet(self):
        """Beside Debian's PyTorch, where it is: in bf16, as on a GPU, and in f32."""
        python = "/usr/bin/python3"
        has_torch = run([python, "-c", "import torch"]).returncode == 0
        need(run([f"{ROOT}/tools/gpu-bench", "prepare", self.carried, "--sscc", SSCC, "--target", "cpu", "--models", "tiny_resnet"]))
        need(self.gpu_bench("--python", python))
        found = read_json(self.report)["models"]["tiny_resnet"]
        kind = describe("tiny_resnet", found["size"])
        self.assertAlmostEqual(found["sscc"]["images_per_second"], 4 / found["sscc"]["median_seconds"])
        self.assertEqual(found["parameters"], sum(math.prod(shape) for shape in kind.shapes()))
        # Nobody wants the gradient of the images.
        filters, side = kind.convolutions()[0]
        self.assertEqual(sum(row["flops"] for row in found["roofline"]), 4 * (kind.flops() - 2 * math.prod(filters) * side**2))
        self.assertEqual("of_pytorch_by_median" in found, has_torch)

        model, data = f"{self.folder}/model", f"{self.carried}/models/tiny_resnet"
        need(run([f"{ROOT}/tools/make_resnet.py", "-o", model, "--widths=8,16", "--blocks=1,1", "--image=32", "--classes=8", "--batch=4"]))
        subject = Subject(SSCC, self.folder, model, {})
        need(run([*subject.command("run"), "--data", data, "--steps", "6", "--log", f"{model}/log.jsonl"]))
        losses = [row["loss"] for row in read_log(f"{model}/log.jsonl")]
        self.assertTrue(all(map(math.isfinite, losses)), losses)
        if has_torch:
            need(run([SSCC, *subject.words, "--target", "cpu", "-q", "--emit", "source", "-o", f"{model}/build"]))
            words = ["--recipe", f"{model}/train.json", "--weights", f"{model}/build/weights", "--data", data, "--steps", "6"]
            done = need(run([python, f"{ROOT}/tools/python/torch_resnet_gpu.py", *words, "--device", "cpu", "--eager", "--float"]))
            for ours, theirs in zip(losses, json.loads(done.stdout)["losses"], strict=True):
                self.assertAlmostEqual(ours, theirs, delta=2e-5 * theirs)

    def test_size_of_resnet50(self):
        kind = describe("resnet50", SIZES["resnet50"])
        self.assertEqual(sum(math.prod(shape) for shape in kind.shapes()), 25557032)
        self.assertAlmostEqual(kind.multiplications(), 4.09e9, delta=0.01 * 4.09e9)
        self.assertEqual(kind.flops(), 6 * kind.multiplications())

    def test_work(self):
        source = r"""
  b,  // bf16[96], lives
  w,  // f32[12], persistent
  o,  // f32[96], lives
  i,  // i64[8], lives
void segment_0F(Rank& rank, int micro_batch) {
  // a product
  rank.at("a \"product\"", micro_batch);
  contract(view(buf::o, {8, 12}), view(buf::b, {8, 3}),
           view(buf::b, 2, {3, 12}, {0, 1}), "ab,bc->ac", 1.0, accumulate);
  rank.mark(4, stream::kernels);

  rank.at("rows", micro_batch);
  gather(view(buf::o, {8, 4}), view(buf::w, {100, 4}), view(buf::i, {8}), 0, 0, 100);
  scatter_add(view(buf::w, {100, 4}), view(buf::i, {8}), view(buf::b, {8, 4}), 0, 0, 100, accumulate);
}
void segment_epilogue(Rank& rank, int micro_batch) {
  rank.at("w", micro_batch);
  update({in_place(view(buf::w, {12}), view(buf::o, {12}), view(buf::w, {12}), view(buf::w, {12}))}, no_tensor, no_tensor, no_tensor, rule_1, 1);
  rank.at("attention", micro_batch);
  attention_grad(view(buf::b, {2, 3}), view(buf::b, {5, 3}), view(buf::b, {5, 7}), view(buf::b, {2, 3}), view(buf::b, {5, 3}), view(buf::b, {5, 7}),
                 view(buf::b, {2, 7}), no_tensor, view(buf::b, {2, 7}), view(buf::w, {1, 5}), no_tensor, "xz,yz,yw,xy->xw", {.scale = 1});
  rank.at("epilogue", micro_batch);
  contract_epilogue(view(buf::b, {8, 12}), no_tensor, view(buf::b, {8, 3}), view(buf::b, {3, 12}), no_tensor, view(buf::w, {12}), no_tensor,
                    "ab,bc->ac", 1.0, Scalar::relu);
}
void segment_windows(Rank& rank, int micro_batch) {
  rank.at("convolve", micro_batch);
  convolve(view(buf::b, {2, 6, 4, 4}), view(buf::b, {2, 3, 8, 8}), view(buf::b, {6, 3, 3, 3}),
           Window{.kernel = {3, 3}, .stride = {2, 2}, .pad = {1, 1}}, overwrite);
  rank.at("in groups", micro_batch);
  convolve_transposed(view(buf::b, {2, 4, 8}), view(buf::b, {2, 6, 8}), view(buf::b, {6, 2, 1}), Window{}, accumulate);
  rank.at("few are seen", micro_batch);
  convolve_grad_weight(view(buf::w, {6, 3, 1, 1}), view(buf::b, {2, 3, 8, 8}), view(buf::b, {2, 6, 4, 4}), Window{.stride = {2, 2}}, overwrite);
  rank.at("pooling", micro_batch);
  max_pool(view(buf::b, {2, 3, 4}), no_tensor, view(buf::b, {2, 3, 8}), Window{.kernel = {2}, .stride = {2}});
  sum_pool_grad(view(buf::w, {1, 1, 9}), view(buf::w, {1, 1, 4}), Window{.kernel = {3}, .stride = {2}}, 0.5, accumulate);
  rank.at("norm", micro_batch);
  norm(view(buf::b, {4, 3, 2}), view(buf::w, {3}), view(buf::w, {3}), view(buf::b, {4, 3, 2}), view(buf::w, {3}), view(buf::w, {3}), over({0, 2}),
       along({1}), 1e-05);
  norm_grad_scale(view(buf::w, {3}), view(buf::w, {3}), view(buf::b, {4, 3, 2}), view(buf::b, {4, 3, 2}), view(buf::w, {3}), view(buf::w, {3}),
                  over({0, 2}), along({1}), accumulate);
}
"""
        work = {place: [(kernel.name, kernel.bytes, kernel.flops, kernel.type) for kernel in kernels]
                for place, kernels in roofline.kernels_of(source).items()}
        self.assertEqual(work, {
            ("0F", 'a "product"'): [("contract", 2 * 4 * 96 + 2 * 24 + 2 * 12, 2 * 8 * 3 * 12, "bf16")],
            ("0F", "rows"): [("gather", 2 * 4 * 32 + 64, 0, None), ("scatter_add", 2 * 4 * 32 + 64 + 2 * 32, 0, None)],
            ("epilogue", "w"): [("update", 7 * 4 * 12, 0, None)],
            ("epilogue", "attention"): [("attention_grad", 2 * (2 * (6 + 15 + 35) + 2 * 14) + 20, 2 * 2 * 5 * (3 * 3 + 2 * 7), "bf16")],
            ("epilogue", "epilogue"): [("contract_epilogue", 2 * (96 + 24 + 36) + 48, 2 * 8 * 3 * 12, "bf16")],
            ("windows", "convolve"): [("convolve", 2 * (192 + 384 + 162), 2 * 2 * 6 * 16 * 27, "bf16")],
            ("windows", "in groups"): [("convolve_transposed", 2 * (2 * 64 + 96 + 12), 2 * 2 * 6 * 8 * 2, "bf16")],
            ("windows", "few are seen"): [("convolve_grad_weight", 4 * 18 + 2 * (384 // 4 + 192), 2 * 2 * 6 * 16 * 3, "bf16")],
            ("windows", "pooling"): [("max_pool", 2 * (24 + 48), 0, None), ("sum_pool_grad", 4 * (2 * 9 + 4), 0, None)],
            ("windows", "norm"): [("norm", 2 * 48 + 4 * 12, 0, None), ("norm_grad_scale", 2 * 48 + 4 * (12 + 6), 0, None)]})
        ceilings = {"bytes_per_second": 1e6, "flops_per_second": {"bf16": 1e5}}
        spans = [("step 3", "step", 0, 1e6), ('a "product"', "0F", 0, 11520), ('a "product"', "0F", 1, 11520), ("rows", "0F", 0, 880),
                 ("loss", "0F", 0, 1e5)]
        trace = {"traceEvents": [{"ph": "X", "tid": 0, "name": name, "cat": segment, "dur": length, "args": {"step": 3, "micro_batch": micro_batch}}
                                 for name, segment, micro_batch, length in spans]}
        rows, rest = roofline.table(source, trace, ceilings, warm=3)
        self.assertEqual([round(row.get("of_ceiling", 0), 6) for row in rows], [0, 0.5, 0.8])
        self.assertAlmostEqual(rest, 1 - (0.1 + 2 * 0.01152 + 0.00088))

    def test_usage(self):
        self.assertIn("'124' is not one of", run([f"{ROOT}/tools/gpu-bench", "prepare", self.carried, "--models", "124"]).stderr)
        self.assertIn("`prepare` has written", run([f"{ROOT}/tools/gpu-bench", "run"]).stderr)


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
