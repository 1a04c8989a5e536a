"""What programs share that train a model in PyTorch as it trains fast on one GPU: torch.compile, bf16 autocast over f32 weights. Each prints one
JSON object: losses and seconds of all steps, by the device's own clock, each given before the one before has ended; the memory that was held; the
version."""
import argparse
import glob
import itertools
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from onnx_files import read_tensor  # noqa: E402
from safetensors_files import read_safetensors  # noqa: E402


def parse(description, *integers):
    """The command line; `integers`: options of this model alone."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("recipe", "weights", "data"):
        parser.add_argument(f"--{option}", required=True)
    for option in (*integers, "steps"):
        parser.add_argument(f"--{option}", type=int, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--float", action="store_true", help="without autocast: f32 all through")
    arguments = parser.parse_args()
    with open(arguments.recipe, encoding="utf-8") as file:
        arguments.recipe = json.load(file)
    return arguments


def arrays_of(folder):
    """{name: array} of the folder's safetensors files."""
    arrays = {}
    for path in sorted(glob.glob(f"{folder}/*.safetensors")):
        arrays.update(read_safetensors(path))
    return arrays


def load(model, names, arrays, transposed=()):
    """Copies the weights, whose names have to be these; `transposed`: those that PyTorch keeps the other way round."""
    parameters = dict(model.named_parameters())
    if set(parameters) != set(names):
        sys.exit(f"{os.path.basename(sys.argv[0])}: these parameters are in one model alone: {sorted(set(parameters) ^ set(names))[:5]}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            array = arrays[name].T if name in transposed else arrays[name]
            parameter.copy_(torch.from_numpy(np.array(array, order="C")))
    return model


def batches(folder, device, layout=torch.contiguous_format):
    """All steps of the data, as they lie on the device, from the front again when they end. `layout` is of the input."""
    count = next(k for k in itertools.count() if not os.path.exists(f"{folder}/step_{k}"))
    inputs, labels = ([torch.tensor(read_tensor(f"{folder}/step_{k}/{name}_0.pb")).to(device) for k in range(count)] for name in ("input", "label"))
    return itertools.cycle(zip([each.contiguous(memory_format=layout) for each in inputs], labels))


class Marks:
    """Points in the device's time."""

    def __init__(self, device):
        self.device, self.points = device, []

    def mark(self):
        if self.device == "cuda":
            self.points.append(torch.cuda.Event(enable_timing=True))
            self.points[-1].record()
        else:
            self.points.append(time.perf_counter())

    def seconds(self):
        """Between each and the next."""
        if self.device == "cuda":
            torch.cuda.synchronize()
            return [first.elapsed_time(second) * 1e-3 for first, second in zip(self.points, self.points[1:])]
        return [second - first for first, second in zip(self.points, self.points[1:])]


def train(arguments, model, optimizer, data):
    """All steps, and the JSON object. `model` takes what `data` gives, and gives the loss."""
    clip, weights = arguments.recipe["clip_grad_norm"], list(model.parameters())
    torch.set_float32_matmul_precision("highest" if arguments.float else "high")
    torch.backends.cudnn.allow_tf32 = not arguments.float
    loss_of = model if arguments.eager else torch.compile(model)
    marks, losses = Marks(arguments.device), []
    marks.mark()
    for _ in range(arguments.steps):
        batch = next(data)
        with torch.autocast(arguments.device, dtype=torch.bfloat16, enabled=not arguments.float):
            loss = loss_of(*batch)
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(weights, clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        marks.mark()
    found = {"losses": [loss.item() for loss in losses], "seconds": marks.seconds(), "torch": torch.__version__,
             "memory_bytes": torch.cuda.max_memory_reserved() if arguments.device == "cuda" else None}
    print(json.dumps(found))
