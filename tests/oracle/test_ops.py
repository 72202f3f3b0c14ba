#!/usr/bin/python3
"""Every graph builder of the engine, on random shapes, against PyTorch in double precision.

A case is a list of statements that the engine (through ops.c) and the evaluator below both execute:
forward values, gradients and, by differentiating a weighted sum of squared gradients, second
derivatives. Each is run with and without fusion. Errors are ||a - b|| / ||b||.
"""
import os
import random

import numpy as np
import torch
import torch.nn.functional as F

import support
from celforge_torch import per_frame, read_safetensors, write_safetensors

# --- The builders in PyTorch, on [N, T, H, W, C] ----------------------------------------------------


def first(x):
    return x.permute(0, 4, 1, 2, 3)


def last(x):
    return x.permute(0, 2, 3, 4, 1)


def in_space(function, x):
    return last(per_frame(function, first(x)))


def pad_sides(x, before, after, mode):
    if mode == "zero":
        return F.pad(x, [side for axis in (4, 3, 2, 1, 0) for side in (before[axis], after[axis])])
    assert not any(before[axis] + after[axis] for axis in (0, 1, 4))
    sides = (before[3], after[3], before[2], after[2])
    return in_space(lambda frames: F.pad(frames, sides, mode=mode), x)


def conv3d(x, weight, bias, stride, before, after, mode):
    x = pad_sides(x, (0, before[0], 0, 0, 0), (0, after[0], 0, 0, 0), "zero")
    x = pad_sides(x, (0, 0, *before[1:], 0), (0, 0, *after[1:], 0), mode)
    bias = None if bias is None else bias.flatten()
    return last(F.conv3d(first(x), first(weight), bias, stride))


def conv3d_transpose(x, weight, bias, stride, before, after, output_padding):
    """PyTorch pads equally before and after; larger padding after is cut off its result."""
    bias = None if bias is None else bias.flatten()
    y = F.conv_transpose3d(first(x), first(weight), bias, stride, before, output_padding)
    return last(y)[(slice(None), *(slice(s - a + b) for s, a, b in zip(y.shape[2:], after, before)))]


def normalized(x, axes, epsilon):
    # PyTorch 1.13's own instance norm has wrong gradients for one image in channels-last order.
    centred = x - x.mean(axes, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + epsilon)


def norm(x, gain, bias, kind, groups, epsilon):
    if kind == "rms":
        y = x / torch.sqrt(x.square().mean(-1, keepdim=True) + epsilon)
    elif kind == "instance":
        y = normalized(x, (2, 3), epsilon)
    else:
        y = normalized(x.unflatten(4, (groups, -1)), (2, 3, 5), epsilon).flatten(4)
    return y if gain is None else y * gain + bias


def axes_of(mask):
    return [axis for axis in range(5) if mask >> axis & 1]


def sliced(x, begin, size):
    return x[tuple(slice(b, b + s) for b, s in zip(begin, size))]


def resize(x, height, width, mode):
    options = {} if mode == "nearest" else {"align_corners": False}
    return in_space(lambda frames: F.interpolate(frames, (height, width), mode=mode, **options), x)


def average_pool(x, size, stride, pad):
    return in_space(lambda frames: F.avg_pool2d(frames, size, stride, pad, count_include_pad=False), x)


def warp(x, flow):
    n, t, h, w, _ = x.shape
    y, x_axis = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    place = torch.stack([x_axis, y], -1) + flow.expand(n, t, h, w, 2)
    # From pixels to [-1, 1]; a side of one pixel has no extent.
    grid = 2 * place / torch.tensor([max(w - 1, 1), max(h - 1, 1)]) - 1
    frames = x.reshape(n * t, h, w, -1).permute(0, 3, 1, 2)
    y = F.grid_sample(frames, grid.reshape(n * t, h, w, 2), "bilinear", "border", align_corners=True)
    return y.permute(0, 2, 3, 1).reshape(x.shape)


def translate(x, offsets):
    samples = []
    for sample, (dx, dy) in zip(x, offsets.detach().reshape(-1, 2)):
        dx, dy = (int(torch.sign(d) * torch.floor(d.abs() + 0.5)) for d in (dx, dy))
        samples.append(F.pad(sample, (0, 0, dx, -dx, dy, -dy)))  # negative padding cuts
    return torch.stack(samples)


def matmul(a, b, transpose_a, transpose_b):
    return torch.matmul(a.mT if transpose_a else a, b.mT if transpose_b else b)


BUILDERS = {
    "exp": torch.exp,
    "log": torch.log,
    "detach": torch.Tensor.detach,
    "warp": warp,
    "translate": translate,
    "matmul": matmul,
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "abs": torch.abs,
    "sign": torch.sign,
    "square": torch.square,
    "sqrt": torch.sqrt,
    "mean": lambda x: x.mean().reshape(1, 1, 1, 1, 1),
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "affine": lambda x, scale, shift: scale * x + shift,
    "leaky_relu": F.leaky_relu,
    "leaky_step": lambda x, slope: torch.where(x > 0, 1.0, slope).to(x),
    "clamp": torch.clamp,
    "broadcast": lambda x, shape: x.expand(shape),
    "reshape": lambda x, shape: x.reshape(shape),
    "slice": sliced,
    "reduce_sum": lambda x, mask, scale: scale * x.sum(axes_of(mask), keepdim=True),
    "pad": pad_sides,
    "average_pool": average_pool,
    "max_pool": lambda x, size: in_space(lambda frames: F.max_pool2d(frames, size), x),
    "resize": resize,
    "concat": lambda axis, *values: torch.cat(values, axis),
    "constant": lambda shape, value: torch.full(shape, value, dtype=torch.float64),
    "conv3d": conv3d,
    "conv3d_transpose": conv3d_transpose,
    "norm": norm,
    "cast": lambda x, dtype: x,
}

# --- A case: built once, written for the engine and evaluated here ---------------------------------


class Case:
    def __init__(self, name, seed):
        self.name = name
        self.dice = random.Random(seed)
        self.noise = torch.Generator().manual_seed(seed)
        self.lines, self.values, self.inputs, self.outputs = [f"graph {name}"], {"-": None}, {}, {}

    def shape(self, n=2, t=3, h=9, w=9, c=6):
        return [self.dice.randint(1, n), self.dice.randint(1, t), *(self.dice.randint(3, s) for s in (h, w)), self.dice.randint(1, c)]

    def input(self, name, shape, low=None, whole=False):
        """Normal random float32 values, or uniform ones in [`low`, `low` + 2); `whole` rounds them to integers."""
        x = torch.randn(shape, generator=self.noise)
        if low is not None:
            x = torch.rand(shape, generator=self.noise) * 2 + low
        if whole:
            x = x.round()
        self.inputs[name] = x.numpy()
        self.values[name] = x.double().requires_grad_()
        self.lines.append(f"input {name}")
        return name

    def __call__(self, builder, *words):
        """Appends a builder; words are values' names, numbers, modes, or lists of numbers."""
        result = f"v{len(self.lines)}"
        flat = [w for word in words for w in (word if isinstance(word, (list, tuple)) else [word])]
        self.lines.append(" ".join(str(w) for w in [builder, result, *flat]))
        arguments = [self.values.get(w, w) if isinstance(w, str) else w for w in words]
        self.values[result] = BUILDERS[builder](*arguments)
        return result

    def output(self, name):
        self.lines.append(f"output {name}")
        self.outputs[name] = self.values[name].detach()

    def weighted(self, y, name):
        """A scalar that depends on every element of y in its own way."""
        r = self.input(name, list(self.values[y].shape))
        return self("reduce_sum", self("mul", y, r), 31, 1.0)

    def gradients(self, loss, wrt):
        self.lines.append(" ".join(["gradients", loss, *wrt]))
        values = torch.autograd.grad(self.values[loss], [self.values[w] for w in wrt], create_graph=True)
        names = [f"grad.{loss}.{w}" for w in wrt]
        self.values.update(zip(names, values))
        for name in names:
            self.output(name)
        return names

    def derivatives(self, y, wrt, second=True):
        """Outputs y, the gradients of a weighted sum of y, and those of their weighted squares."""
        self.output(y)
        first_order = self.gradients(self.weighted(y, "ry"), wrt)
        if not second:
            return
        total = None
        for i, name in enumerate(first_order):
            term = self.weighted(self("square", name), f"rg{i}")
            total = term if total is None else self("add", total, term)
        self.gradients(total, wrt)


# --- Cases ----------------------------------------------------------------------------------------


def pointwise_cases(seed):
    signed = ["relu", "tanh", "sigmoid", "softplus", "abs", "square", "exp"]
    for builder in signed + ["sqrt", "log"]:
        case = Case(f"{builder}-{seed}", seed)
        x = case.input("x", case.shape(), None if builder in signed else 0.2)
        case.derivatives(case("mul", case(builder, x), case("square", x)), [x])
        yield case
    for builder, words in {
        "affine": (0.7, -0.2),
        "leaky_relu": (0.2,),
        "clamp": (-0.5, 0.8),
    }.items():
        case = Case(f"{builder}-{seed}", seed)
        x = case.input("x", case.shape())
        case.derivatives(case("mul", case(builder, x, *words), case("tanh", x)), [x])
        yield case
    for builder, words in {"sign": (), "leaky_step": (0.3,)}.items():
        case = Case(f"{builder}-{seed}", seed)
        case.output(case(builder, case.input("x", case.shape()), *words))
        yield case
    yield from broadcast_cases(seed)


def broadcast_cases(seed):
    for builder in ("add", "sub", "mul", "div"):
        case = Case(f"{builder}-{seed}", seed)
        shape = case.shape()
        a = case.input("a", [s if case.dice.random() < 0.5 else 1 for s in shape])
        b = case.input("b", shape, 0.5)
        c = case.input("c", [1, 1, 1, 1, shape[4]])
        y = case("mul", case(builder, case(builder, a, b), case("sigmoid", c)), case("tanh", a))
        case.derivatives(y, [a, b, c])
        yield case


def reduction_cases(seed):
    case = Case(f"reduce_sum-{seed}", seed)
    x = case.input("x", case.shape())
    y = case("reduce_sum", case("square", x), case.dice.randint(1, 31), 0.3)
    case.derivatives(case("mul", y, case("tanh", x)), [x])
    yield case
    case = Case(f"mean-{seed}", seed)
    x = case.input("x", case.shape())
    case.derivatives(case("square", case("mean", case("mul", x, case("tanh", x)))), [x])
    yield case


def convolution_cases(seed):
    for mode in ("zero", "reflect"):
        case = Case(f"conv3d-{mode}-{seed}", seed)
        dice = case.dice
        kernel = [dice.randint(1, 3), dice.choice([1, 2, 3, 4, 7]), dice.choice([1, 3, 4, 5])]
        before = [dice.randint(0, kernel[0] - 1), *(dice.randint(0, 2) for _ in range(2))]
        after = [dice.randint(0, 1), *(dice.randint(0, 2) for _ in range(2))]
        stride = [dice.choice([1, 1, 2]), dice.choice([1, 2, 3]), dice.choice([1, 2])]
        inputs = dice.choice([1, 3, 5, 8, 16])
        x = case.input("x", [dice.randint(1, 2), dice.randint(kernel[0], 5), dice.randint(7, 12), dice.randint(7, 12), inputs])
        k = case.input("k", [dice.choice([1, 3, 6, 16]), *kernel, inputs])
        bias = case.input("b", [1, 1, 1, 1, case.values[k].shape[0]]) if dice.random() < 0.7 else "-"
        y = case("conv3d", x, k, bias, stride, before, after, mode)
        activation = dice.choice(["none", "leaky_relu", "tanh"])
        if activation != "none":
            y = case(activation, y, *([0.2] if activation == "leaky_relu" else []))
        case.derivatives(case("mul", y, case("sigmoid", y)), [x, k] + ([bias] if bias != "-" else []))
        yield case


def transposed_cases(seed):
    case = Case(f"conv3d_transpose-{seed}", seed)
    dice = case.dice
    kernel = [dice.randint(1, 3), dice.choice([1, 2, 3, 4]), dice.choice([1, 3, 4, 5])]
    stride = [dice.choice([1, 1, 2]), dice.choice([1, 2, 3]), dice.choice([1, 2])]
    before = [dice.randint(0, t - 1) for t in kernel]
    after = [dice.randint(b, b + 1) for b in before]
    extra = [dice.randint(0, s - 1) for s in stride]
    inputs, outputs = dice.choice([1, 3, 5, 8, 16]), dice.choice([1, 3, 6, 16])
    x = case.input("x", [dice.randint(1, 2), dice.randint(4, 5), dice.randint(6, 9), dice.randint(6, 9), inputs])
    k = case.input("k", [inputs, *kernel, outputs])
    bias = case.input("b", [1, 1, 1, 1, outputs]) if dice.random() < 0.7 else "-"
    y = case("conv3d_transpose", x, k, bias, stride, before, after, extra)
    if dice.random() < 0.5:
        y = case("relu", y)
    case.derivatives(case("mul", y, case("sigmoid", y)), [x, k] + ([bias] if bias != "-" else []))
    yield case


def norm_cases(seed):
    for kind in ("rms", "instance", "group"):
        case = Case(f"norm-{kind}-{seed}", seed)
        groups = case.dice.randint(1, 4)
        channels = groups * case.dice.choice([1, 2, 5, 8])
        x = case.input("x", [*case.shape()[:4], channels])
        wrt, gain, bias = [x], "-", "-"
        if case.dice.random() < 0.7:
            gain, bias = (case.input(name, [1, 1, 1, 1, channels]) for name in "gb")
            wrt += [gain, bias]
        y = case("norm", x, gain, bias, kind, groups, 1e-3)
        if case.dice.random() < 0.5:
            y = case("leaky_relu", y, 0.2)
        if case.dice.random() < 0.5:
            y = case("add", y, x)
        case.derivatives(case("mul", y, case("tanh", y)), wrt)
        yield case


def concat_slice_cases(seed):
    case = Case(f"concat-slice-{seed}", seed)
    n, t, h, w, _ = shape = case.shape()
    x, z = case.input("x", shape), case.input("z", [n, t, h, w, case.dice.randint(1, 5)])
    y = case("concat", 4, x, z, case("square", x))
    y = case("pad", y, [0, 1, 0, 2, 0], [1, 0, 1, 0, 1], "zero")
    sides = [[0, 0, case.dice.randint(0, 2), case.dice.randint(0, 2), 0] for _ in range(2)]
    y = case("pad", y, *sides, "reflect")
    size = list(case.values[y].shape)
    begin = [case.dice.randint(0, s - 1) for s in size]
    y = case("slice", y, begin, [case.dice.randint(1, s - b) for s, b in zip(size, begin)])
    y = case("concat", case.dice.randint(0, 4), y, case("tanh", y))
    y = case("reshape", y, [1, 1, 1, 1, case.values[y].numel()])
    y = case("add", y, case("reduce_sum", case("mul", x, x), 31, 0.1))
    y = case("add", y, case("reduce_sum", case("square", z), 31, 0.1))
    case.derivatives(case("mul", y, case("sigmoid", y)), [x, z])
    yield case
    case = Case(f"broadcast-{seed}", seed)
    x = case.input("x", [1, 1, 3, 1, 4])
    y = case("add", case("broadcast", case("square", x), [2, 3, 3, 5, 4]), case("constant", [1, 1, 1, 1, 1], 0.5))
    case.derivatives(case("mul", y, y), [x])
    yield case
    for mode in ("nearest", "bilinear"):
        case = Case(f"resize-{mode}-{seed}", seed)
        x = case.input("x", case.shape())
        y = case("resize", x, case.dice.randint(1, 14), case.dice.randint(1, 14), mode)
        case.derivatives(case("mul", y, case("tanh", y)), [x])
        yield case
    case = Case(f"max_pool-{seed}", seed)
    x = case.input("x", case.shape(), whole=True)  # of which many are equal
    y = case("max_pool", x, case.dice.randint(1, 3))
    case.derivatives(case("mul", y, case("tanh", y)), [x])
    yield case
    case = Case(f"average_pool-{seed}", seed)
    x, size = case.input("x", case.shape()), case.dice.randint(1, 3)
    y = case("average_pool", x, size, case.dice.randint(1, 3), case.dice.randint(0, size // 2))
    case.derivatives(case("mul", y, case("tanh", y)), [x])
    yield case


def matmul_cases(seed):
    for transpose_a, transpose_b in ((0, 0), (1, 0), (0, 1), (1, 1)):
        case = Case(f"matmul-{transpose_a}{transpose_b}-{seed}", seed)
        batch = case.shape(3, 2, 3)[:3]
        rows, columns, terms = (case.dice.choice([1, 3, 8, 17, 64]) for _ in range(3))
        a = case.input("a", batch + ([terms, rows] if transpose_a else [rows, terms]))
        b = case.input("b", batch + ([columns, terms] if transpose_b else [terms, columns]))
        y = case("matmul", a, b, transpose_a, transpose_b)
        case.derivatives(case("mul", y, case("sigmoid", y)), [a, b])
        yield case
    # Cross entropy of features with the features of the same positions (PatchNCE), keys detached.
    case = Case(f"contrast-{seed}", seed)
    x, z = (case.input(name, [2, 1, 1, 20, 8]) for name in "xz")
    q, k = case("tanh", x), case("detach", case("add", case("tanh", z), case("sigmoid", x)))
    logits = case("matmul", q, k, 0, 1)
    positive = case("reduce_sum", case("mul", q, k), 16, 1.0)
    loss = case("sub", case("log", case("reduce_sum", case("exp", logits), 16, 1.0)), positive)
    case.derivatives(case("add", loss, case("reduce_sum", case("square", z), 31, 0.1)), [x, z])
    yield case
    case = Case(f"gram-{seed}", seed)
    x = case.input("x", [case.dice.randint(1, 2), 1, 1, case.dice.randint(1, 900), case.dice.randint(1, 20)])
    y = case("matmul", x, x, 1, 0)
    case.derivatives(case("affine", y, 0.1, 0.0), [x])
    yield case


def motion_cases(seed):
    case = Case(f"warp-{seed}", seed)
    shape = case.shape()
    x, z = case.input("x", shape), case.input("z", shape)
    flow = case.input("flow", [shape[0], case.dice.choice([1, shape[1]]), *shape[2:4], 2])
    y = case("warp", case("detach", x), case("affine", flow, 2.0, 0.0))
    case.derivatives(case("mul", case("sub", z, y), case("tanh", x)), [x, z])
    yield case
    case = Case(f"translate-{seed}", seed)
    shape = case.shape(4)
    x = case.input("x", shape)
    y = case("translate", x, case.input("offsets", [shape[0], 1, 1, 1, 2], -1.0))
    y = case("translate", case("square", y), case.input("more", [shape[0], 1, 1, 1, 2]))
    case.derivatives(case("mul", case("add", y, x), case("tanh", x)), [x])
    yield case


def half_cases(seed):
    """bf16 activations and weights, f32 norms: the forward pass and its gradients."""
    case = Case(f"bf16-{seed}", seed)
    channels = 16
    x = case.input("x", [2, 2, 8, 8, channels])
    k = case.input("k", [channels, 1, 3, 3, channels])
    gain, bias = (case.input(name, [1, 1, 1, 1, channels]) for name in "gb")
    kernel = case("affine", k, 0.1, 0.0)
    y = case("conv3d", case("cast", x, "bf16"), case("cast", kernel, "bf16"), "-", [1, 1, 1], [0, 1, 1], [0, 1, 1], "zero")
    y = case("norm", y, gain, bias, "rms", 1, 1e-5)
    y = case("add", y, case("cast", x, "bf16"))
    case.derivatives(case("tanh", case("cast", y, "f32")), [x, k, gain, bias], second=False)
    yield case


FAMILIES = {
    "pointwise": (pointwise_cases, 3, 2e-6, 2e-5),
    "reductions": (reduction_cases, 6, 2e-6, 2e-5),
    "convolution": (convolution_cases, 12, 2e-6, 2e-5),
    "transposed convolution": (transposed_cases, 16, 2e-6, 2e-5),
    "norms": (norm_cases, 8, 1e-5, 1e-4),
    "matrix products": (matmul_cases, 4, 2e-6, 2e-5),
    "motion": (motion_cases, 8, 2e-6, 2e-5),
    "moving data": (concat_slice_cases, 6, 2e-6, 2e-5),
    "bf16": (half_cases, 3, 2e-2, 2e-2),
}


def engine(root, cases, mode):
    program, inputs, outputs = (os.path.join(root, name) for name in ("program", "inputs", "outputs"))
    with open(program, "w", encoding="utf-8") as file:
        file.write("\n".join(line for case in cases for line in case.lines) + "\n")
    write_safetensors(inputs, {f"{c.name}/{n}": x for c in cases for n, x in c.inputs.items()})
    support.run(os.path.join(support.BUILD, "tests/oracle/ops"), program, inputs, outputs, mode)
    return read_safetensors(outputs)


def compare(results, cases):
    """Returns the largest error of forward values and of gradients, each with the value's name."""
    worst = {"values": (0.0, "nothing"), "gradients": (0.0, "nothing")}
    for case in cases:
        for name, expected in case.outputs.items():
            ours = torch.from_numpy(results[f"{case.name}/{name}"].astype(np.float64))
            assert ours.shape == expected.shape, f"{case.name}/{name}: {ours.shape}, not {expected.shape}"
            error = float((ours - expected).norm() / max(float(expected.norm()), 1e-30))
            kind = "gradients" if name.startswith("grad.") else "values"
            if not error <= worst[kind][0]:
                worst[kind] = (error, f"{case.name}/{name}")
    return worst


def bf16_runs():
    with open("/proc/cpuinfo", encoding="ascii") as file:
        return "avx512bw" in file.read()


def main():
    torch.set_num_threads(1)
    tap = support.Tap()
    with support.scratch() as root:
        for family, (cases_of, count, values_limit, gradients_limit) in FAMILIES.items():
            if family == "bf16" and not bf16_runs():
                tap.skip("bf16 against PyTorch", "the processor has no AVX-512")
                continue
            cases = [case for seed in range(count) for case in cases_of(1000 + seed)]
            for mode in ("fused", "unfused"):
                worst = compare(engine(root, cases, mode), cases)
                for kind, limit in (("values", values_limit), ("gradients", gradients_limit)):
                    error, where = worst[kind]
                    name = f"{family}, {mode}: {kind} of {len(cases)} graphs within {limit:.0e} of double precision"
                    tap.check(error <= limit, name, f"largest {error:.1e}: {where}")
    tap.end()


if __name__ == "__main__":
    main()
