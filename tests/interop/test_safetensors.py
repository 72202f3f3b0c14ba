#!/usr/bin/python3
"""Reads and writes safetensors files against a strict reader and a writer made from the specification, with the `safetensors`
package if pip can fetch it, and with PyTorch if it is installed."""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

import packages

BUILD = os.environ.get("BUILD", "build")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.path.join(ROOT, BUILD, "tests/unit/checkpoints/test_safetensors")
VERSION = "0.4.5"
SIZES = {"F32": 4, "BF16": 2, "F16": 2, "I64": 8, "U8": 1, "F64": 8, "I32": 4, "I16": 2, "I8": 1,
         "U16": 2, "U32": 4, "U64": 8, "BOOL": 1}
TYPES = list(SIZES)  # in the order of TensorType
tests = failures = 0


def check(good, name, detail=""):
    global tests, failures
    tests += 1
    failures += not good
    print(f"{'ok' if good else 'not ok'} {tests} - {name}")
    if not good and detail:
        print("\n".join("# " + line for line in str(detail).splitlines()))


def skip(name, reason):
    global tests
    tests += 1
    print(f"ok {tests} - {name} # SKIP {reason}")


# --- From the specification ----------------------------------------------------------------------
def unique(pairs):
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("duplicate key")
    return dict(pairs)


def is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def strict_read(data):
    """Returns {name: (dtype, shape, bytes)}; raises ValueError for anything that the specification forbids."""
    if len(data) < 8:
        raise ValueError("too short")
    (length,) = struct.unpack("<Q", data[:8])
    if length > 100_000_000 or length + 8 > len(data) or data[8:9] != b"{":
        raise ValueError("bad header length or start")
    header = json.loads(data[8:8 + length].decode("utf-8"), object_pairs_hook=unique)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("bad metadata")
    body, tensors, ranges = data[8 + length:], {}, []
    for name, entry in header.items():
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        if not all(map(is_count, shape + [begin, end])):
            raise ValueError("not a count")
        size = SIZES[entry["dtype"]]
        for dimension in shape:
            size *= dimension
        if size != end - begin or size >= 2**64:
            raise ValueError("length and shape disagree")
        ranges.append((begin, end))
        tensors[name] = (entry["dtype"], shape, body[begin:end])
    at = 0
    for begin, end in sorted(ranges):
        if begin != at:
            raise ValueError("gap or overlap")
        at = end
    if at != len(body):
        raise ValueError("bytes after the last tensor")
    return tensors


def plain_write(tensors, metadata):
    header, body = {"__metadata__": metadata}, b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


# --- The package ---------------------------------------------------------------------------------
def package():
    """The `safetensors` module, or None."""
    folder = packages.fetch(f"safetensors-{VERSION}", [f"safetensors=={VERSION}"], "--no-deps")
    if not folder:
        return None
    sys.path.insert(0, folder)
    try:
        import safetensors
        return safetensors
    except ImportError:
        return None


NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "I64": "int64", "U8": "uint8", "F64": "float64",
         "I32": "int32", "I16": "int16", "I8": "int8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
         "BOOL": "bool"}


def package_read(module, data):
    return {name: (entry["dtype"], list(entry["shape"]), bytes(entry["data"]))
            for name, entry in module.deserialize(data)}


def package_write(module, tensors, metadata):
    entries = {name: {"dtype": NAMES[dtype], "shape": shape, "data": data}
               for name, (dtype, shape, data) in tensors.items()}
    return module.serialize(entries, metadata=metadata)


# --- Celforge ----------------------------------------------------------------------------------------
def celforge(*arguments):
    return subprocess.run([PROGRAM, *arguments], check=True, capture_output=True, text=True).stdout


def celforge_read(*paths):
    """Returns a dict per path, or None for a rejected file."""
    files = []
    for line in celforge("read", *paths).splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "refused":
            files.append(None)
        elif kind == "file":
            files.append({})
        else:
            name, dtype, shape, data = rest.split(" ")
            files[-1][bytes.fromhex(name).decode()] = (
                dtype, [int(d) for d in shape.split(",")] if shape else [], bytes.fromhex(data))
    return files


def every_type():
    names = ["b", "a.weight", "é€", 'with "quotes"', "back\\slash", "z/y", "new\nline", "f", "", "i", "j", "k", "l"]
    tensors = {}
    for t, (name, dtype) in enumerate(zip(names, TYPES)):
        modulus = 2 if dtype == "BOOL" else 120
        tensors[name] = (dtype, [3, 1, 2], bytes((7 * i + t) % modulus for i in range(6 * SIZES[dtype])))
    tensors["scalar"] = ("F32", [], bytes((7 * i) % 120 for i in range(4)))
    tensors["none"] = ("F64", [4, 0], b"")
    return tensors


def load(path):
    with open(path, "rb") as file:
        return file.read()


def save(path, data):
    with open(path, "wb") as file:
        file.write(data)
    return path


def mutations(data, count):
    """Yields copies with a few bytes changed, deleted, duplicated or replaced by JSON characters."""
    numbers = random.Random(5)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(numbers.randint(1, 3)):
            position = numbers.randrange(len(changed))
            what = numbers.randrange(4)
            if what == 0:
                changed[position] = numbers.randrange(256)
            elif what == 1:
                changed[position] = numbers.choice(b'0123456789[]{},:" F')
            elif what == 2:
                del changed[position:position + numbers.randint(1, 4)]
            else:
                changed[position:position] = changed[position:position + numbers.randint(1, 4)]
        if numbers.random() < 0.5 and len(changed) > 16:  # repair the header length
            body = 50
            changed[:8] = struct.pack("<Q", max(0, len(changed) - 8 - body))
        yield bytes(changed)


def test_readers(folder, reader, read, write):
    path = os.path.join(folder, "ours")
    celforge("write-types", path)
    found = read(load(path))
    check(found == every_type(), f"{reader} reads every type, name and shape that Celforge writes", found)

    theirs = save(os.path.join(folder, "theirs"), write(every_type(), {"format": "pt"}))
    check(celforge_read(theirs) == [every_type()], f"Celforge reads what {reader} writes", celforge_read(theirs))


def test_refusals(folder, reader, read):
    tensors = {"a": ("F32", [2, 3], bytes(24)), "b": ("BF16", [5], bytes(10)), "c": ("U8", [16], bytes(16))}
    good = plain_write(tensors, {"k": "v"})
    cases = list(mutations(good, 600))
    paths = [save(os.path.join(folder, f"m{i}"), data) for i, data in enumerate(cases)]
    wrong, accepted = [], 0
    for path, data, ours in zip(paths, cases, celforge_read(*paths)):
        try:
            other = read(data)
        except Exception:  # any exception is a rejection
            other = None
        accepted += ours is not None
        if ours is not None and ours != other:
            wrong.append((path, ours, other))
    check(not wrong, f"of 600 damaged files Celforge accepts none that {reader} rejects or reads differently", wrong[:3])
    check(0 < accepted < 600, f"some damaged files are still valid ({accepted} accepted)")


def test_same_bytes(folder, module):
    path = os.path.join(folder, "floats")
    celforge("write-floats", path)
    values = struct.pack("<24f", *range(24))
    tensors = {"head": ("F32", [], values[20:24]), "stem.bias": ("F32", [2], values[:8]),
               "stem.weight": ("F32", [2, 3, 2, 2], values)}
    expected = package_write(module, tensors, None)
    check(load(path) == expected, "Celforge writes the same bytes as the package", load(path)[:400])


def test_torch(folder, torch, read):
    """A torch module loads Celforge's file, and Celforge reads a torch module's weights."""
    path = os.path.join(folder, "floats")
    celforge("write-floats", path)
    stem = torch.nn.Conv2d(3, 2, 2)
    loaded = {name: torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(shape)
              for name, (_, shape, data) in read(load(path)).items()}
    stem.load_state_dict({"weight": loaded["stem.weight"], "bias": loaded["stem.bias"]})
    same = torch.equal(stem.weight.detach().flatten(), torch.arange(24.0))
    check(same and loaded["head"].item() == 5, "a torch module loads Celforge's file")

    tensors = {name: ("F32", list(value.shape), value.detach().numpy().tobytes())
               for name, value in torch.nn.Conv3d(3, 4, 3).state_dict().items()}
    half = torch.randn(3, 5).to(torch.bfloat16)
    tensors["half"] = ("BF16", [3, 5], half.view(torch.int16).numpy().tobytes())
    theirs = save(os.path.join(folder, "torch"), plain_write(tensors, {}))
    check(celforge_read(theirs) == [tensors], "Celforge reads a torch module's weights, bfloat16 too")


def main():
    if not os.access(PROGRAM, os.X_OK):
        check(False, f"{PROGRAM} is not built")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        test_readers(folder, "a strict reader of the specification", strict_read, plain_write)
        test_refusals(folder, "a strict reader of the specification", strict_read)
        module = package()
        if module:
            name = f"safetensors {module.__version__}"
            test_readers(folder, name, lambda data: package_read(module, data),
                         lambda tensors, metadata: package_write(module, tensors, metadata))
            test_refusals(folder, name, lambda data: package_read(module, data))
            test_same_bytes(folder, module)
        else:
            skip("the safetensors package", "pip cannot fetch it")
        try:
            import torch
        except ImportError:
            skip("torch", "no python3-torch")
        else:
            test_torch(folder, torch, strict_read)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
