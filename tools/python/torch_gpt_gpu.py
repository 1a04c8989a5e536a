"""The model of tools/make_example.py in PyTorch as it trains fast on one GPU: torch.compile, bf16 autocast over f32 weights, attention as one
operator (scaled_dot_product_attention), fused AdamW, gradients clipped. Prints one JSON object: losses and seconds of all steps, by the device's own
clock, each given before the one before has ended; the memory that was held; the version.

    torch_gpt_gpu.py --recipe train.json --weights FOLDER --data DATA --heads 12 --steps N [--device cpu] [--eager]
"""
import argparse
import glob
import itertools
import json
import os
import sys
import time
import warnings

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from onnx_files import read_tensor  # noqa: E402
from safetensors_files import read_safetensors  # noqa: E402


class Attention(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)

    def forward(self, x):
        batch, sequence, hidden = x.shape
        query, key, value = (part.view(batch, sequence, self.heads, -1).transpose(1, 2) for part in self.qkv(x).split(hidden, 2))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.proj(mixed.transpose(1, 2).reshape(batch, sequence, hidden))


class Mlp(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(hidden), Attention(hidden, heads)
        self.ln_2, self.mlp = nn.LayerNorm(hidden), Mlp(hidden)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    """Parameters have their ONNX names; matrices are [out, in], as PyTorch keeps them."""

    def __init__(self, vocabulary, sequence, hidden, layers, heads):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, hidden), nn.Parameter(torch.empty(sequence, hidden))
        self.layers = nn.ModuleList(Block(hidden, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(hidden)

    def forward(self, tokens, labels):
        x = self.wte(tokens) + self.wpe
        for block in self.layers:
            x = block(x)
        return F.cross_entropy(F.linear(self.ln_f(x), self.wte.weight).flatten(0, 1), labels.flatten())


def load(folder, names, heads, device):
    """The model with the weights of the folder's safetensors files."""
    arrays = {}
    for path in sorted(glob.glob(f"{folder}/*.safetensors")):
        arrays.update(read_safetensors(path))
    layers = sum(name.endswith(".attn.qkv.weight") for name in names)
    with torch.device(device):
        model = Gpt(*arrays["wte.weight"].shape[:1], *arrays["wpe"].shape, layers, heads)
    linear = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    parameters = dict(model.named_parameters())
    if set(parameters) != set(names):
        sys.exit(f"torch_gpt_gpu: these parameters are in one model alone: {sorted(set(parameters) ^ set(names))[:5]}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            array = arrays[name].T if name in linear else arrays[name]
            parameter.copy_(torch.from_numpy(np.array(array, order="C")))
    return model


def optimizer_of(model, recipe, device):
    rule, without = recipe["optimizer"], set(recipe["optimizer"]["no_weight_decay"])
    groups = [{"params": [each for name, each in model.named_parameters() if (name in without) == plain],
               "weight_decay": 0 if plain else rule["weight_decay"]} for plain in (False, True)]
    how = {"fused": True} if device == "cuda" else {"foreach": True}
    return torch.optim.AdamW(groups, lr=rule["lr"], betas=(rule["beta1"], rule["beta2"]), eps=rule["eps"], **how)


def batches(folder, device):
    """All steps of the data, as they lie on the device, from the front again when they end."""
    count = next(k for k in itertools.count() if not os.path.exists(f"{folder}/step_{k}"))
    steps = [[torch.tensor(read_tensor(f"{folder}/step_{k}/{name}_0.pb")).to(device) for name in ("input", "label")] for k in range(count)]
    return itertools.cycle(steps)


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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("recipe", "weights", "data"):
        parser.add_argument(f"--{option}", required=True)
    for option in ("heads", "steps"):
        parser.add_argument(f"--{option}", type=int, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_float32_matmul_precision("high")
    with open(arguments.recipe, encoding="utf-8") as file:
        recipe = json.load(file)
    model = load(arguments.weights, recipe["parameters"], arguments.heads, device)
    optimizer, weights = optimizer_of(model, recipe, device), list(model.parameters())
    loss_of = model if arguments.eager else torch.compile(model)
    data, marks, losses = batches(arguments.data, device), Marks(device), []
    marks.mark()
    for _ in range(arguments.steps):
        tokens, labels = next(data)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = loss_of(tokens, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, recipe["clip_grad_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        marks.mark()
    found = {"losses": [loss.item() for loss in losses], "seconds": marks.seconds(), "torch": torch.__version__,
             "memory_bytes": torch.cuda.max_memory_reserved() if device == "cuda" else None}
    print(json.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
