"""The models that gpu-bench measures, and what differs between them. A description has

    SIZES                 {name: what the writer of the ONNX file is told}; the batch is of one rank
    WRITER, TORCH         the scripts that write the ONNX file, and that train it in PyTorch
    OLDEST                the first major version of PyTorch that has what TORCH uses
    UNIT, units           what is counted, and how many a step has
    BATCH_AXIS            what is divided among ranks
    LEARNING_RATE         at which losses fall from the first steps on, without a warm-up
    options_of_torch()    what TORCH is told besides
    shapes()              of all parameters
    flops()               of one unit, forwards and backwards
    weight(), batch()     what is drawn; inputs and labels by their names
"""
import math

import numpy as np


class Gpt:
    """GPT-2. The vocabulary is of 50257 tokens, and some that are never used: a multiple of 64."""
    SIZES = {"124M": {"layers": 12, "hidden": 768, "heads": 12, "sequence": 1024, "vocabulary": 50304, "batch": 16},
             "1.5B": {"layers": 48, "hidden": 1600, "heads": 25, "sequence": 1024, "vocabulary": 50304, "batch": 8},
             "tiny": {"layers": 2, "hidden": 64, "heads": 4, "sequence": 32, "vocabulary": 128, "batch": 4}}
    WRITER, TORCH, OLDEST = "make_example", "torch_gpt_gpu", 2
    UNIT, BATCH_AXIS, LEARNING_RATE = "token", "input_ids:0", 3e-4

    def __init__(self, size):
        self.size, self.units = size, size["batch"] * size["sequence"]

    def __str__(self):
        return f"{self.size['layers']} layers, hidden {self.size['hidden']}, sequence {self.size['sequence']}, batch {self.size['batch']}"

    def options_of_torch(self):
        return ["--heads", self.size["heads"]]

    def shapes(self):
        hidden = self.size["hidden"]
        norm = [(hidden,), (hidden,)]

        def linear(width_in, width_out):
            return [(width_in, width_out), (width_out,)]

        block = [*norm, *linear(hidden, 3 * hidden), *linear(hidden, hidden), *norm, *linear(hidden, 4 * hidden), *linear(4 * hidden, hidden)]
        return [(self.size["vocabulary"], hidden), (self.size["sequence"], hidden), *(block * self.size["layers"]), *norm]

    def flops(self):
        """6N + 12 L h s, N without the positions, which multiply nothing."""
        layers, hidden, sequence = (self.size[key] for key in ("layers", "hidden", "sequence"))
        return 6 * (sum(map(math.prod, self.shapes())) - sequence * hidden) + 12 * layers * hidden * sequence

    def weight(self, random, name, shape):
        if name.endswith(".bias"):
            return np.zeros(shape, np.float32)
        if ".ln_" in name or name.startswith("ln_f"):
            return np.ones(shape, np.float32)
        is_narrow = name.endswith(("attn.proj.weight", "mlp.down.weight"))
        return normal(random, shape, 0.02 / math.sqrt(2 * self.size["layers"]) if is_narrow else 0.02)

    def batch(self, random):
        """Tokens of which few are frequent, and what follows each as label."""
        drawn = (self.size["vocabulary"] * random.random((self.size["batch"], self.size["sequence"] + 1))**4).astype(np.int64)
        return {"input_ids": drawn[:, :-1], "labels": drawn[:, 1:]}


class ResNet:
    """ResNet-50 v1.5."""
    SIZES = {"resnet50": {"widths": [64, 128, 256, 512], "blocks": [3, 4, 6, 3], "image": 224, "classes": 1000, "batch": 256},
             "tiny_resnet": {"widths": [8, 16], "blocks": [1, 1], "image": 32, "classes": 8, "batch": 4}}
    WRITER, TORCH, OLDEST = "make_resnet", "torch_resnet_gpu", 1
    UNIT, BATCH_AXIS, LEARNING_RATE = "image", "images:0", 0.005

    def __init__(self, size):
        self.size, self.units = size, size["batch"]

    def __str__(self):
        size = self.size
        blocks = "+".join(map(str, size["blocks"]))
        return f"{blocks} blocks, {size['image']} x {size['image']} pixels, {size['classes']} classes, batch {size['batch']}"

    def options_of_torch(self):
        return []

    def convolutions(self):
        """(shape of the filters, height and width of what comes out) of each."""
        def halved(length):
            return (length + 1) // 2

        width = self.size["widths"][0]
        side = halved(self.size["image"])
        found = [((width, 3, 7, 7), side)]
        side = halved(side)   # by max_pool
        for stage, (inner, blocks) in enumerate(zip(self.size["widths"], self.size["blocks"])):
            for i in range(blocks):
                has_stride, before = stage > 0 and i == 0, side
                side = halved(side) if has_stride else side
                found += [((inner, width, 1, 1), before), ((inner, inner, 3, 3), side), ((4 * inner, inner, 1, 1), side)]
                if has_stride or width != 4 * inner:
                    found.append(((4 * inner, width, 1, 1), side))
                width = 4 * inner
        return found

    def shapes(self):
        filters = [shape for shape, _ in self.convolutions()]
        classes, width = self.size["classes"], 4 * self.size["widths"][-1]
        return [each for shape in filters for each in (shape, shape[:1], shape[:1])] + [(classes, width), (classes,)]

    def multiplications(self):
        """Of one image forwards, in convolutions and the last layer; padding counts."""
        return sum(math.prod(shape) * side**2 for shape, side in self.convolutions()) + 4 * self.size["widths"][-1] * self.size["classes"]

    def flops(self):
        return 3 * 2 * self.multiplications()

    def weight(self, random, name, shape):
        if name.endswith(".bias"):
            return np.zeros(shape, np.float32)
        if len(shape) == 1:   # of a norm
            return np.full(shape, 0 if name.endswith("bn3.weight") else 1, np.float32)   # tools/make_resnet.py says why
        return normal(random, shape, 0.01 if name == "fc.weight" else math.sqrt(2 / (shape[0] * math.prod(shape[2:]))))

    def batch(self, random):
        """Each class has a pattern of large squares, under noise."""
        size = self.size
        patterns = np.random.default_rng(3).standard_normal((size["classes"], 3, 4, 4), np.float32)
        labels, square = random.integers(0, size["classes"], size["batch"]), -(-size["image"] // 4)
        images = random.standard_normal((size["batch"], 3, size["image"], size["image"]), np.float32)
        images += patterns[labels].repeat(square, 2).repeat(square, 3)[:, :, :size["image"], :size["image"]]
        return {"images": images, "labels": labels}


def normal(random, shape, deviation):
    return random.standard_normal(shape, np.float32) * np.float32(deviation)


KINDS = [Gpt, ResNet]
SIZES = {name: size for kind in KINDS for name, size in kind.SIZES.items()}


def describe(name, size):
    """The description of a model of SIZES, with another size than there, perhaps."""
    return next(kind for kind in KINDS if name in kind.SIZES)(size)
