#!/usr/bin/python3
"""The generators beside PyTorch, from the same checkpoint: whole clips and streams, odd sizes, a source
smaller than the output. At the start of training celnet's output is almost the source, so what the network
adds to it is compared: ||a - b|| <= 1e-4 ||b|| for the change and 1e-5 at most anywhere. What pix2pixhd makes
is all its own."""
import math
import os
import re

import numpy as np
import torch

import support
from celforge_torch import Pix2PixHD, Training, enlarge, normalize, parse_config

FRAMES = 10
SMALL = {**support.GENERATOR_ALONE, "loss.temporal": 0, "train.micro_batch": 2}
NETWORKS = [
    {"model.temporal": temporal, "model.norm": norm}
    for temporal, norm in (("conv3d", "rms"), ("conv3d", "instance"), ("conv3d", "group"), ("conv3d", "none"), ("none", "rms"),
                           ("convgru", "rms"))
]
PUBLISHED = {"model.generator": "pix2pixhd", "model.temporal": "none", "model.norm": "instance", "model.downsamplings": 2}
NETWORKS += [{**PUBLISHED, **more} for more in ({}, {"model.norm": "group"}, {"model.norm": "none"}, {"model.local_enhancers": 1})]
# source height and width, output height and width
SIZES = [(32, 32, 32, 32), (37, 45, 37, 45), (20, 31, 40, 62)]


def ours(folder, source, weights, way, size, precision="f32"):
    shape = [FRAMES, *source.shape[2:], *size]
    command = [os.path.join(support.BUILD, "tests/oracle/forward"), folder, weights, precision, way, *map(str, shape)]
    output = np.frombuffer(support.run(*command, input=source.tobytes()), "<f4")
    return torch.from_numpy(output.copy()).view(1, FRAMES, *size, 3).permute(0, 4, 1, 2, 3)


def network(folder, weights):
    with open(os.path.join(folder, "config.yaml"), encoding="utf-8") as file:
        config = parse_config(file.read())
    training = Training(config)
    training.load(os.path.join(folder, "checkpoints", f"step-{config.train.steps:08d}"))
    if weights == "ema":
        for name, p in training.generator.named_parameters():
            p.data.copy_(training.ema[name])
    return training.generator


def name_of(settings):
    kind = settings.get("model.generator", settings["model.temporal"])
    return ", ".join([kind, settings["model.norm"]] + ["enhancer"] * settings.get("model.local_enhancers", 0))


def check(tap, folder, name, weights, way, size):
    generator = network(folder, weights)
    source = np.random.default_rng(1).integers(0, 256, (1, FRAMES, size[0], size[1], 3), np.uint8)
    film = enlarge(normalize(source), *size[2:])
    with torch.no_grad():
        expected = generator(film)
    output = ours(folder, source, weights, way, size[2:])
    change = expected if isinstance(generator, Pix2PixHD) else expected - film
    error = float((output - expected).norm() / change.norm())
    largest = float((output - expected).abs().max())
    label = f"{name}, {weights}, {way}, {size[0]}x{size[1]} to {size[2]}x{size[3]}: forward within 1e-4"
    detail = f"{error:.1e} of what the network makes, which is {float(change.norm() / film.norm()):.2g} of the film; largest {largest:.1e}"
    tap.check(error <= 1e-4 and largest <= 1e-5 * max(1, float(expected.abs().max())), label, detail)


def check_bf16(tap, folder, name, way, size):
    """Rounded on the way, but no further away than that explains; in levels of 255 as frames are written. What
    pix2pixhd makes is smaller than the film that celnet changes, and instance norms divide by less than 1."""
    limit = 2e-2 if name.startswith("pix2pixhd") else 1e-2
    label = f"{name}, {way}, bf16: forward within {limit:.0e}"
    source = np.random.default_rng(1).integers(0, 256, (1, FRAMES, size[0], size[1], 3), np.uint8)
    try:
        output = ours(folder, source, "ema", way, size[2:], "bf16")
    except RuntimeError as error:
        if "does not run on this device" not in str(error):
            raise
        tap.skip(label, "this processor has no bf16")
        return
    with torch.no_grad():
        expected = network(folder, "ema")(enlarge(normalize(source), *size[2:]))
    error = float((output - expected).norm() / expected.norm())
    levels = 127.5 * (output.clamp(-1, 1) - expected.clamp(-1, 1)).abs()
    detail = f"{error:.1e}; levels of 255: largest {float(levels.max()):.2f}, mean {float(levels.mean()):.3f}"
    tap.check(1e-5 < error <= limit, label, detail)


def count_planned(root, settings):
    """The generator's numbers, from the plan of a step; the discriminators are left out."""
    config = support.write_config(os.path.join(root, "plan.yaml"), settings)
    text = support.celforge("bench", "step", config, "--frames", "1", "--size", "32x32", "--plan").decode()
    shapes = re.findall(r"^  \S+ +\[([\d,]+)\] +at \d+$", text, re.M)
    return sum(math.prod(map(int, shape.split(","))) for shape in shapes)


def check_published_size(tap, root):
    """The authors' networks have a bias in every convolution; those before a norm without gain and bias are
    without effect, and left out here."""
    for name, settings, published, biases in (
        ("three halvings", {"model.downsamplings": 3}, 45_593_347, 64 + 2 * (128 + 256) + 512 + 18 * 512 + 64),
        ("four, as for 1024x512", {"model.downsamplings": 4}, 182_443_267, 64 + 2 * (128 + 256 + 512) + 1024 + 18 * 1024 + 64),
    ):
        count = count_planned(root, {**SMALL, **PUBLISHED, "model.channels": 64, "model.blocks": 9, **settings})
        tap.check(count == published - biases, f"pix2pixhd, {name}: {published:,} parameters, but for {biases:,} biases", f"{count:,}")


def main():
    torch.set_num_threads(1)
    tap = support.Tap()
    with support.scratch() as root:
        data = os.path.join(root, "data")
        support.synth(data, 2, 2, "32x32")
        for settings in NETWORKS:
            name = name_of(settings)
            folder = support.train(os.path.join(root, name.replace(", ", "-")), {**SMALL, **settings, "data.path": data})
            for size in SIZES:
                check(tap, folder, name, "plain", "clip", size)
            check(tap, folder, name, "ema", "stream", SIZES[1])
            if settings["model.norm"] == "rms" or "model.local_enhancers" in settings:
                for way in ("clip", "stream"):
                    check_bf16(tap, folder, name, way, SIZES[1])
        check_published_size(tap, root)
    tap.end()


if __name__ == "__main__":
    main()
