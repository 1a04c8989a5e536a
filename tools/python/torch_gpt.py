"""The model of tools/make_example.py in PyTorch, trained from the same initial weights, on the same data, by the same recipe. Prints a JSON object a
step: {"loss": .., "seconds": ..}. The part of tools/bench that is compared with.

    torch_gpt.py --model DIR/model.onnx --recipe DIR/train.json --data DATA --heads 4 --steps N --threads N
"""
import argparse
import json
import math
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from onnx_files import read_initializers, read_tensor  # noqa: E402


class Gpt:
    """Weights keep their ONNX names and their layout [in, out]."""

    def __init__(self, initializers, parameters, heads):
        self.parameters = {name: torch.tensor(initializers[name]).requires_grad_() for name in parameters}
        self.mask = torch.tensor(initializers["causal_mask"])
        self.heads = heads
        self.layers = sum(name.endswith("attn.qkv.weight") for name in parameters)

    def linear(self, path, x):
        weight, bias = self.parameters[f"{path}.weight"], self.parameters[f"{path}.bias"]
        return torch.addmm(bias, x.reshape(-1, weight.shape[0]), weight).reshape(*x.shape[:-1], weight.shape[1])

    def norm(self, path, x):
        return F.layer_norm(x, x.shape[-1:], self.parameters[f"{path}.weight"], self.parameters[f"{path}.bias"], 1e-5)

    def attention(self, path, x):
        batch, sequence, hidden = x.shape
        query, key, value = (part.reshape(batch, sequence, self.heads, -1).transpose(1, 2) for part in self.linear(f"{path}.qkv", x).split(hidden, -1))
        scores = query @ key.transpose(2, 3) * (1 / math.sqrt(hidden // self.heads))
        weight = scores.masked_fill(self.mask, -math.inf).softmax(-1)
        return self.linear(f"{path}.proj", (weight @ value).transpose(1, 2).reshape(batch, sequence, hidden))

    def logits(self, tokens):
        x = F.embedding(tokens, self.parameters["wte.weight"]) + self.parameters["wpe"]
        for i in range(self.layers):
            path = f"layers.{i}"
            x = x + self.attention(f"{path}.attn", self.norm(f"{path}.ln_1", x))
            x = x + self.linear(f"{path}.mlp.down", F.gelu(self.linear(f"{path}.mlp.up", self.norm(f"{path}.ln_2", x)), approximate="tanh"))
        return self.norm("ln_f", x) @ self.parameters["wte.weight"].T


def optimizer_of(model, recipe):
    rule = recipe["optimizer"]
    without = set(rule["no_weight_decay"])
    groups = [{"params": [p for name, p in model.parameters.items() if (name in without) == plain], "weight_decay": 0 if plain else rule["weight_decay"]}
              for plain in (False, True)]
    return torch.optim.AdamW(groups, lr=rule["lr"], betas=(rule["beta1"], rule["beta2"]), eps=rule["eps"], foreach=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("model", "recipe", "data"):
        parser.add_argument(f"--{option}", required=True)
    for option in ("heads", "steps", "threads"):
        parser.add_argument(f"--{option}", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    with open(arguments.recipe, encoding="utf-8") as file:
        recipe = json.load(file)
    model = Gpt(read_initializers(arguments.model), recipe["parameters"], arguments.heads)
    optimizer = optimizer_of(model, recipe)
    weights = list(model.parameters.values())
    for step in range(arguments.steps):
        tokens, labels = (torch.tensor(read_tensor(f"{arguments.data}/step_{step}/{name}_0.pb")) for name in ("input", "label"))
        begin = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model.logits(tokens).flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, recipe["clip_grad_norm"])
        optimizer.step()
        value = loss.item()
        print(json.dumps({"loss": value, "seconds": time.perf_counter() - begin}), flush=True)


if __name__ == "__main__":
    main()
