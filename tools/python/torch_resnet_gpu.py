"""The model of tools/make_resnet.py in PyTorch as it trains fast on one GPU (torch_training.py), with images and filters that have their channels
last in memory, algorithms of convolutions that cuDNN has tried, and fused SGD.

    torch_resnet_gpu.py --recipe train.json --weights FOLDER --data DATA --steps N [--device cpu] [--eager] [--float]
"""
import itertools
import warnings

import torch
from torch import nn
from torch.nn import functional as F

from torch_training import arrays_of, batches, load, parse, train


def convolution(width_in, width_out, kernel, stride=1):
    return nn.Conv2d(width_in, width_out, kernel, stride, padding=kernel // 2, bias=False)


class Bottleneck(nn.Module):
    def __init__(self, width_in, width, width_out, stride):
        super().__init__()
        self.conv1, self.bn1 = convolution(width_in, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = convolution(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = convolution(width, width_out, 1), nn.BatchNorm2d(width_out)
        is_plain = stride == 1 and width_in == width_out
        self.downsample = None if is_plain else nn.Sequential(convolution(width_in, width_out, 1, stride), nn.BatchNorm2d(width_out))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Parameters have their ONNX names. `stages`: the width of a stage and how many blocks it has."""

    def __init__(self, stages, classes):
        super().__init__()
        width = stages[0][0]
        self.conv1, self.bn1 = convolution(3, width, 7, 2), nn.BatchNorm2d(width)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)
        for number, (width_of_stage, blocks) in enumerate(stages, 1):
            strides = [1 if number == 1 else 2] + [1] * (blocks - 1)
            widths = [width] + [4 * width_of_stage] * blocks
            self.add_module(f"layer{number}", nn.Sequential(*(Bottleneck(width_in, width_of_stage, width_out, stride)
                                                              for width_in, width_out, stride in zip(widths, widths[1:], strides))))
            width = widths[-1]
        self.layers = [name for name, _ in self.named_children() if name.startswith("layer")]
        self.fc = nn.Linear(width, classes)

    def forward(self, images, labels):
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for name in self.layers:
            x = getattr(self, name)(x)
        return F.cross_entropy(self.fc(x.mean((2, 3))), labels)


def build(arrays):
    """The model that has these weights."""
    stages = []
    for number in itertools.count(1):
        blocks = next(i for i in itertools.count() if f"layer{number}.{i}.conv2.weight" not in arrays)
        if blocks == 0:
            return ResNet(stages, len(arrays["fc.bias"]))
        stages.append((len(arrays[f"layer{number}.0.conv2.weight"]), blocks))


def optimizer_of(model, rule, device):
    how = {"lr": rule["lr"], "momentum": rule["momentum"], "weight_decay": rule["weight_decay"]}
    try:
        return torch.optim.SGD(model.parameters(), **how, fused=device == "cuda")
    except TypeError:   # PyTorch has it since 2.4
        return torch.optim.SGD(model.parameters(), **how, foreach=True)


def main():
    arguments = parse(__doc__)
    torch.backends.cudnn.benchmark = True
    arrays = arrays_of(arguments.weights)
    model = load(build(arrays), arguments.recipe["parameters"], arrays).to(arguments.device, memory_format=torch.channels_last)
    data = batches(arguments.data, arguments.device, torch.channels_last)
    train(arguments, model, optimizer_of(model, arguments.recipe["optimizer"], arguments.device), data)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
