"""ONNX files without the onnx package: tensors read and written, models written. Needs numpy only.

An ONNX file is a Protobuf message. The wire format knows varints (type 0), eight bytes (1), length-delimited bytes (2) and four bytes (5); field
numbers are those of onnx.proto.
"""
import math
import struct

import numpy as np

FLOAT, INT32, INT64, BOOL, FLOAT16, DOUBLE = 1, 6, 7, 9, 10, 11  # TensorProto.DataType
DTYPES = {FLOAT: np.dtype("<f4"), INT32: np.dtype("<i4"), INT64: np.dtype("<i8"), BOOL: np.dtype("bool"), FLOAT16: np.dtype("<f2"), DOUBLE: np.dtype("<f8")}


def element_type(array):
    """TensorProto.DataType of an array."""
    return next(number for number, dtype in DTYPES.items() if dtype == array.dtype)


# -- reading


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def signed(value):
    """A varint as the two's complement number of 64 bits that it stands for."""
    return value - (1 << 64) if value >> 63 else value


def fields(data):
    """(field number, wire type, value) of each field of a message: an int for varints, bytes for the rest."""
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = read_varint(data, at)
        else:
            if wire == 2:
                length, at = read_varint(data, at)
            else:
                length = {1: 8, 5: 4}[wire]
            value = bytes(data[at:at + length])
            at += length
        yield number, wire, value


def varints(wire, value):
    """The numbers of a repeated integer field, packed or not."""
    if wire == 0:
        return [signed(value)]
    numbers, at = [], 0
    while at < len(value):
        number, at = read_varint(value, at)
        numbers.append(signed(number))
    return numbers


def parse_tensor(data):
    """(name, array) of a serialized TensorProto of one of DTYPES."""
    name, dims, kind, raw, floats, integers = "", [], FLOAT, None, b"", []
    for number, wire, value in fields(data):
        if number == 1:
            dims += varints(wire, value)
        elif number == 2:
            kind = value
        elif number == 4:
            floats += value
        elif number in (5, 7):
            integers += varints(wire, value)
        elif number == 8:
            name = value.decode()
        elif number == 9:
            raw = value
    if raw is not None:
        flat = np.frombuffer(raw, DTYPES[kind])
    elif floats:
        flat = np.frombuffer(floats, np.float32).astype(DTYPES[kind])
    else:
        flat = np.array(integers, DTYPES[kind])
    return name, flat.reshape(dims)


def read_tensor(path):
    """The array of a .pb file."""
    with open(path, "rb") as file:
        return parse_tensor(file.read())[1]


def read_initializers(path):
    """{name: array} of the initializers of a .onnx file that lie in the file itself."""
    with open(path, "rb") as file:
        graph = next(value for number, _, value in fields(file.read()) if number == 7)
    return dict(parse_tensor(value) for number, _, value in fields(graph) if number == 5)


# -- writing


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def number_field(number, value):
    return varint(number << 3) + varint(value)


def float_field(number, value):
    return varint(number << 3 | 5) + struct.pack("<f", value)


def bytes_field(number, value):
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name, array):
    """A serialized TensorProto. 0-d arrays are scalars."""
    array = np.asarray(array)
    return (b"".join(number_field(1, length) for length in array.shape) + number_field(2, element_type(array)) +
            (bytes_field(8, name) if name else b"") + bytes_field(9, array.tobytes()))


def write_tensor(path, name, array):
    with open(path, "wb") as file:
        file.write(tensor(name, array))


def attribute(name, value):
    """A serialized AttributeProto of a float, an int, ints, a string or an array."""
    if isinstance(value, float):
        body, kind = float_field(2, value), 1
    elif isinstance(value, int):
        body, kind = number_field(3, value), 2
    elif isinstance(value, str):
        body, kind = bytes_field(4, value), 3
    elif isinstance(value, (list, tuple)):
        body, kind = b"".join(number_field(8, entry) for entry in value), 7
    else:
        body, kind = bytes_field(5, tensor("", value)), 4
    return bytes_field(1, name) + body + number_field(20, kind)


def value_info(name, kind, shape):
    """A serialized ValueInfoProto; a dimension is a length or the name of a symbol."""
    dims = b"".join(bytes_field(1, bytes_field(2, d) if isinstance(d, str) else number_field(1, d)) for d in shape)
    return bytes_field(1, name) + bytes_field(2, bytes_field(1, number_field(1, kind) + bytes_field(2, dims)))


class Graph:
    """A model under construction. `node` returns the name of the node's first output, so that calls nest."""

    def __init__(self, name, opset):
        self.name, self.opset = name, opset
        self.nodes, self.initializers, self.inputs, self.outputs = [], [], [], []

    def node(self, op_type, name, inputs, outputs=None, domain="", **attributes):
        outputs = outputs or [name + "_output_0"]
        self.nodes.append(b"".join(bytes_field(1, i) for i in inputs) + b"".join(bytes_field(2, o) for o in outputs) + bytes_field(3, name) +
                          bytes_field(4, op_type) + b"".join(bytes_field(5, attribute(k, v)) for k, v in attributes.items()) +
                          (bytes_field(7, domain) if domain else b""))
        return outputs[0]

    def constant(self, name, array):
        return self.node("Constant", name, [], value=np.asarray(array))

    def initializer(self, name, array):
        self.initializers.append(tensor(name, array))
        return name

    def external_initializer(self, name, shape, file, offset):
        """A float32 initializer whose data is said to lie in a file; the offset after it."""
        length = 4 * math.prod(shape)
        entries = [("location", file), ("offset", str(offset)), ("length", str(length))]
        self.initializers.append(b"".join(number_field(1, each) for each in shape) + number_field(2, FLOAT) + bytes_field(8, name) +
                                 b"".join(bytes_field(13, bytes_field(1, key) + bytes_field(2, value)) for key, value in entries) + number_field(14, 1))
        return offset + length

    def input(self, name, kind, shape):
        self.inputs.append(value_info(name, kind, shape))
        return name

    def output(self, name, kind, shape):
        self.outputs.append(value_info(name, kind, shape))

    def model(self, producer):
        """The serialized ModelProto."""
        graph = (b"".join(bytes_field(1, n) for n in self.nodes) + bytes_field(2, self.name) + b"".join(bytes_field(5, i) for i in self.initializers) +
                 b"".join(bytes_field(11, i) for i in self.inputs) + b"".join(bytes_field(12, o) for o in self.outputs))
        return number_field(1, 8) + bytes_field(2, producer) + bytes_field(7, graph) + bytes_field(8, bytes_field(1, "") + number_field(2, self.opset))
