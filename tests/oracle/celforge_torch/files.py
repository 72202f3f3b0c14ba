"""Files that tests exchange with Celforge: safetensors and configs."""
import json
import math
import re
import struct
from types import SimpleNamespace

import numpy as np
import yaml

SAFETENSORS_TYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "U8": "u1"}


def read_safetensors(path):
    """Name -> array. Rejects a file unless every byte is accounted for."""

    def unique(pairs):
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            raise ValueError(f"{path}: duplicate name")
        return dict(pairs)

    with open(path, "rb") as file:
        content = file.read()
    if len(content) < 8:
        raise ValueError(f"{path}: {len(content)} bytes are too few for a safetensors file")
    (length,) = struct.unpack("<Q", content[:8])
    if length % 8 != 0 or 8 + length > len(content):
        raise ValueError(f"{path}: invalid header length {length}")
    header = json.loads(content[8 : 8 + length].decode("utf-8"), object_pairs_hook=unique)
    header.pop("__metadata__", None)
    data, arrays, expected = content[8 + length :], {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        kind = np.dtype(SAFETENSORS_TYPES[entry["dtype"]])
        if begin != expected or end - begin != math.prod(entry["shape"]) * kind.itemsize:
            raise ValueError(f"{path}: {name} is at {begin}..{end}, expected at {expected}")
        arrays[name] = np.frombuffer(data[begin:end], kind).reshape(entry["shape"])
        expected = end
    if expected != len(data):
        raise ValueError(f"{path}: {len(data) - expected} bytes after the last array")
    return arrays


def write_safetensors(path, arrays):
    """Contiguous f32 arrays by name."""
    header, offset = {}, 0
    for name, array in arrays.items():
        size = array.size * 4
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, "<f4").tobytes())


def parse_config(text):
    """A complete config (config.yaml of a run, `celforge config FILE`) as nested namespaces."""

    def value(leaf):
        # YAML 1.1 reads 2e-4 as a string.
        if isinstance(leaf, str) and re.fullmatch(r"[-+]?[0-9.]+[eE][-+]?[0-9]+", leaf):
            return float(leaf)
        return leaf

    sections = yaml.safe_load(text)
    return SimpleNamespace(
        **{
            section: SimpleNamespace(**{key: value(leaf) for key, leaf in keys.items()})
            for section, keys in sections.items()
        }
    )
