"""The model of tools/make_example.py in PyTorch as it trains fast on one GPU (torch_training.py), with attention as one operator
(scaled_dot_product_attention) and fused AdamW, gradients clipped.

    torch_gpt_gpu.py --recipe train.json --weights FOLDER --data DATA --heads 12 --steps N [--device cpu] [--eager] [--float]
"""
import warnings

import torch
from torch import nn
from torch.nn import functional as F

from torch_training import arrays_of, batches, load, parse, train


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


def build(arrays, heads, device):
    """The model that has these weights."""
    layers = sum(name.endswith(".attn.qkv.weight") for name in arrays)
    with torch.device(device):
        return Gpt(*arrays["wte.weight"].shape[:1], *arrays["wpe"].shape, layers, heads)


def optimizer_of(model, recipe, device):
    rule, without = recipe["optimizer"], set(recipe["optimizer"]["no_weight_decay"])
    groups = [{"params": [each for name, each in model.named_parameters() if (name in without) == plain],
               "weight_decay": 0 if plain else rule["weight_decay"]} for plain in (False, True)]
    how = {"fused": True} if device == "cuda" else {"foreach": True}
    return torch.optim.AdamW(groups, lr=rule["lr"], betas=(rule["beta1"], rule["beta2"]), eps=rule["eps"], **how)


def main():
    arguments = parse(__doc__, "heads")
    arrays = arrays_of(arguments.weights)
    model = build(arrays, arguments.heads, arguments.device)
    linear = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    load(model, arguments.recipe["parameters"], arrays, transposed=linear)
    train(arguments, model, optimizer_of(model, arguments.recipe, arguments.device), batches(arguments.data, arguments.device))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
