#!/usr/bin/python3
"""Builders of the engine and their gradients, on the CPU, against PyTorch in double."""
import os
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError as missing:
    print(f"ok 1 - ops against PyTorch # SKIP {missing}")
    sys.exit(0)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
TOLERANCE = 2e-5
PAD_MODES = ["constant", "reflect", "replicate"]
rng = np.random.default_rng(7)


def compile_driver(folder):
    """With the flags the libraries were built with."""
    with open(os.path.join(BUILD, "flags")) as file:
        flags = file.read().split()
    packages = subprocess.run(["pkg-config", "--libs", "jansson", "yaml-0.1"], check=True,
                              capture_output=True, text=True).stdout.split()
    driver = os.path.join(folder, "op_driver")
    archives = [os.path.join(BUILD, f"lib{room}.a") for room in ("engine", "base")]
    subprocess.run([*flags, "-o", driver, "tests/oracle/op_driver.c", *archives, "-ldnnl", *packages,
                    "-lm"], check=True, cwd=ROOT)
    return driver


def run_driver(driver, name, numbers, tensors):
    data = b"".join(np.array(t.shape, "<i8").tobytes() + t.astype("<f4").tobytes() for t in tensors)
    done = subprocess.run([driver, name, *map(str, numbers)], input=data, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode())
    return np.frombuffer(done.stdout, "<f4").astype(np.float64)


def draw(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def channels_first(x):
    return x.permute(0, 4, 1, 2, 3)


def channels_last(x):
    return x.permute(0, 2, 3, 4, 1)


def on_frames(x, function):
    """Applies what works on [N, C, H, W] to each frame of [N, T, H, W, C]."""
    n, t = x.shape[:2]
    y = function(x.flatten(0, 1).permute(0, 3, 1, 2))
    return y.permute(0, 2, 3, 1).unflatten(0, (n, t))


def conv3d(numbers, x, w, bias=None):
    stride, before, after, mode = numbers[0:3], numbers[3:6], numbers[6:9], PAD_MODES[numbers[9]]
    space = (before[2], after[2], before[1], after[1])
    x = on_frames(x, lambda f: F.pad(f, space, mode=mode)) if any(space) else x
    x = F.pad(channels_first(x), (0, 0, 0, 0, before[0], after[0]))
    bias = None if bias is None else bias.flatten()
    return channels_last(F.conv3d(x, channels_first(w), bias, tuple(stride)))


def norm(numbers, x, gain=None, bias=None):
    kind, groups = numbers
    if kind == 0:
        y = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)
    elif kind == 1:
        y = on_frames(x, lambda f: F.instance_norm(f, eps=1e-5))
    else:
        y = on_frames(x, lambda f: F.group_norm(f, groups, eps=1e-5))
    return y if gain is None else gain * y + bias


def resize(numbers, x):
    if numbers[2] == 0:
        return on_frames(x, lambda f: F.interpolate(f, size=numbers[:2], mode="nearest"))
    return on_frames(x, lambda f: F.interpolate(f, size=numbers[:2], mode="bilinear",
                                                align_corners=False))


def pool(numbers, x):
    return on_frames(x, lambda f: F.avg_pool2d(f, *numbers, count_include_pad=False))


def pad(numbers, x):
    top, bottom, left, right, mode = numbers
    return on_frames(x, lambda f: F.pad(f, (left, right, top, bottom), mode=PAD_MODES[mode]))


UNARIES = {
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2), "relu": F.relu, "tanh": torch.tanh,
    "sigmoid": torch.sigmoid, "exp": torch.exp, "log": torch.log, "softplus": F.softplus,
    "abs": torch.abs, "sqrt": torch.sqrt, "square": torch.square,
    "clamp": lambda x: torch.clamp(x, -0.5, 0.75), "mean": lambda x: x.mean().reshape(1, 1, 1, 1, 1),
}
BINARIES = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div}


def cases():
    """Name, numbers, inputs, the same in PyTorch."""
    for name, function in UNARIES.items():
        x = draw(2, 2, 5, 7, 3)
        x = np.abs(x) + 0.1 if name in ("log", "sqrt") else x
        yield name, [], [x], lambda _, a, f=function: f(a)
    for name, function in BINARIES.items():
        for shape in ((1, 1, 1, 1, 6), (2, 1, 1, 1, 1), (1, 2, 4, 5, 1)):
            b = draw(*shape)
            b = np.sign(b) * (np.abs(b) + 0.5)
            yield name, [], [draw(2, 2, 4, 5, 6), b], lambda _, a, c, f=function: f(a, c)
    # Strides, before, after, mode, channels in and out, taps.
    for numbers, i, o, taps in (
        ([1, 1, 1, 2, 1, 1, 0, 1, 1, 0], 8, 16, (3, 3, 3)),
        ([1, 2, 2, 0, 1, 1, 0, 1, 1, 0], 16, 8, (1, 3, 3)),
        ([1, 1, 1, 2, 3, 3, 0, 3, 3, 1], 3, 16, (3, 7, 7)),
        ([1, 1, 1, 0, 3, 3, 0, 3, 3, 1], 16, 3, (1, 7, 7)),
        ([1, 2, 2, 0, 1, 1, 0, 1, 1, 2], 5, 7, (1, 4, 4)),
        ([2, 1, 2, 1, 0, 2, 1, 1, 0, 0], 4, 1, (2, 3, 2)),
        ([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], 17, 9, (1, 1, 1)),
    ):
        inputs = [draw(2, 4, 8, 9, i), draw(o, *taps, i)]
        yield "conv3d", numbers, inputs, conv3d
        yield "conv3d", numbers, [*inputs, draw(1, 1, 1, 1, o)], conv3d
    for numbers in ([0, 1], [1, 1], [2, 2], [2, 6]):
        yield "norm", numbers, [draw(2, 2, 6, 5, 12)], norm
        vectors = [draw(1, 1, 1, 1, 12), draw(1, 1, 1, 1, 12)]
        yield "norm", numbers, [draw(2, 2, 6, 5, 12), *vectors], norm
    for size in ((10, 14), (3, 4), (7, 9), (1, 1), (5, 7 * 3)):
        for mode in (0, 1):
            yield "resize", [*size, mode], [draw(2, 2, 5, 7, 4)], resize
    for numbers in ([2, 2, 0], [3, 2, 1], [3, 1, 1], [4, 3, 2]):
        yield "pool", numbers, [draw(1, 2, 9, 8, 6)], pool
    for numbers in ([1, 1, 1, 1, 0], [3, 0, 1, 4, 1], [3, 3, 3, 3, 2], [2, 2, 0, 0, 1]):
        yield "pad", numbers, [draw(2, 1, 5, 6, 3)], pad


def by_torch(function, numbers, inputs, make_gradient):
    tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs]
    y = function(numbers, *tensors)
    gradient = make_gradient(*y.shape)
    y.backward(torch.tensor(gradient, dtype=torch.float64))
    return gradient, [y.detach().numpy(), *(t.grad.numpy() for t in tensors)]


def worst_error(found, expected):
    worst, offset = 0.0, 0
    for part in expected:
        mine = found[offset:offset + part.size]
        offset += part.size
        difference = np.linalg.norm(mine - part.ravel())
        worst = max(worst, difference / max(np.linalg.norm(part), 1e-12))
    assert offset == found.size, f"{found.size} numbers, expected {offset}"
    return worst


def check_adam(driver, clip):
    parameters, gradient, steps = draw(1, 1, 1, 1, 1000), draw(1, 1, 1, 1, 1000), 5
    controls = np.array([0.01, clip, 0.9], np.float32).reshape(1, 1, 1, 1, 3)
    found = run_driver(driver, "adam", [steps], [parameters, gradient, controls])[:4000]
    p = torch.tensor(parameters, dtype=torch.float64, requires_grad=True)
    ema = p.detach().clone()
    adam = torch.optim.AdamW([p], lr=0.01, betas=(0.5, 0.999), eps=1e-8, weight_decay=0.01)
    for _ in range(steps):
        p.grad = torch.tensor(gradient, dtype=torch.float64)
        if clip > 0:
            torch.nn.utils.clip_grad_norm_([p], clip)
        adam.step()
        ema = 0.9 * ema + 0.1 * p.detach()
    state = adam.state[p]
    expected = [p.detach(), state["exp_avg"], state["exp_avg_sq"], ema]
    return worst_error(found, [x.numpy() for x in expected])


def main():
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        driver = compile_driver(folder)
        results = {}
        for name, numbers, inputs, function in cases():
            gradient, expected = by_torch(function, numbers, inputs, draw)
            found = run_driver(driver, name, numbers, [*inputs, gradient])
            error = worst_error(found, expected)
            if error >= results.get(name, (0, None))[0]:
                results[name] = (error, numbers)
        for clip in (0.0, 1.0):
            results[f"adam, clip {clip}"] = (check_adam(driver, clip), [])
    for index, (name, (error, numbers)) in enumerate(results.items(), 1):
        good = error <= TOLERANCE
        failed = failed or not good
        print(f"{'ok' if good else 'not ok'} {index} - {name} against PyTorch: "
              f"relative error {error:.1e}" + ("" if good else f" with {numbers}"))
    print(f"1..{len(results)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
