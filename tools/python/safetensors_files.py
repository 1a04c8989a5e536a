"""Reads and writes safetensors files: eight bytes with the header's length, a JSON header, the data. Needs numpy only."""
import json
import math
import struct

import numpy as np

DTYPES = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "BOOL": np.dtype("bool")}


def read_safetensors(path):
    """{name: array}; the arrays are of the file, read when they are looked at."""
    data = np.memmap(path, np.uint8, "r")
    length, = struct.unpack("<Q", data[:8].tobytes())
    header, data = json.loads(data[8:8 + length].tobytes()), data[8 + length:]
    return {name: data[slice(*entry["data_offsets"])].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in header.items() if name != "__metadata__"}


def write_safetensors(path, tensors):
    """Writes one tensor after the other: a list of (name, dtype of the header, shape, function that gives the array)."""
    header, offset = {}, 0
    for name, dtype, shape, _ in tensors:
        end = offset + DTYPES[dtype].itemsize * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, dtype, shape, array_of in tensors:
            array = np.asarray(array_of(), DTYPES[dtype], order="C")
            if array.shape != tuple(shape):
                raise ValueError(f"'{name}' is of shape {array.shape}, not {tuple(shape)}")
            array.tofile(file)
