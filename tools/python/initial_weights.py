"""Initial weights of models that are written as ONNX files, drawn without floating-point functions: the same bytes on every machine."""
import math

import numpy as np


class Weights:
    """Adds initializers to a graph and keeps their names. With `external` their data is said to lie in that file, and nothing is drawn."""

    def __init__(self, graph, seed, external=None):
        self.graph, self.random = graph, np.random.RandomState(seed)  # RandomState's stream is frozen
        self.names = []
        self.external, self.offset = external, 0

    def uniform(self, name, shape, deviation):
        """In a grid of 2^16 values, so that each is a product of two exact numbers."""
        if self.external:
            return self.declare(name, shape)
        grid = self.random.randint(0, 1 << 16, size=shape).astype(np.float32) - np.float32((1 << 15) - 0.5)
        step = np.float32(deviation * 2 * math.sqrt(3) / (1 << 16))  # a uniform distribution of width w has deviation w / sqrt(12)
        return self.add(name, grid * step)

    def normal(self, name, shape, deviation):
        """As the sum of twelve such values is, nearly: it has 20 bits, so it is exact, too."""
        if self.external:
            return self.declare(name, shape)
        total = sum(self.random.randint(0, 1 << 16, size=shape) for _ in range(12)) - 6 * ((1 << 16) - 1)
        return self.add(name, total.astype(np.float32) * np.float32(deviation / (1 << 16)))

    def full(self, name, shape, value):
        if self.external:
            return self.declare(name, shape)
        return self.add(name, np.full(shape, value, np.float32))

    def declare(self, name, shape):
        self.names.append(name)
        self.offset = self.graph.external_initializer(name, shape, self.external, self.offset)
        return name

    def add(self, name, array):
        self.names.append(name)
        return self.graph.initializer(name, array)
