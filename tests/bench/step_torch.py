#!/usr/bin/python3
"""Times whole training steps in PyTorch, eager mode, and prints one JSON object.

    step_torch.py CONFIG FRAMES HEIGHT WIDTH STEPS f32|bf16 default|channels-last

CONFIG is a complete config. The step is that of tests/oracle: the generator once, the discriminators
on [real; fake] and their update, the updated discriminators on the same fake, the generator's update
and EMA, from u8 frames on. Two steps come first, untimed.
"""
import contextlib
import json
import os
import resource
import statistics
import sys
import time

import torch

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "oracle"))
from celforge_torch import Training, normalize, parse_config  # noqa: E402

WARMUP_STEPS = 2


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_training(config, layout):
    torch.manual_seed(config.run.seed)
    training = Training(config, norms=False)
    if layout == "channels-last":
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        for network in training.networks.values():
            for p in network.parameters():
                if p.dim() in formats:
                    p.data = p.data.contiguous(memory_format=formats[p.dim()])
        training.ema = {name: p.detach().clone() for name, p in training.generator.named_parameters()}
    return training


def main():
    path, (frames, height, width, steps), precision, layout = sys.argv[1], map(int, sys.argv[2:6]), *sys.argv[6:8]
    with open(path, encoding="utf-8") as file:
        config = parse_config(file.read())
    torch.set_num_threads(config.train.threads)
    before = peak_bytes()
    training = make_training(config, layout)
    shape = (config.train.global_batch, frames, height, width, 3)
    source, target = (torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(2))
    memory = torch.channels_last_3d if layout == "channels-last" else torch.contiguous_format
    half = precision == "bf16"
    cast = torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()
    number = config.optim.l1_warmup + config.optim.fade_in
    seconds = []
    for _ in range(WARMUP_STEPS + steps):
        begin = time.perf_counter()
        with cast:
            clips = (normalize(clip).contiguous(memory_format=memory) for clip in (source, target))
            losses = training.step(number, *clips)
        seconds.append(time.perf_counter() - begin)
        assert all(torch.isfinite(loss) for loss in losses.values()), losses
    result = {
        "step_seconds": statistics.median(seconds[WARMUP_STEPS:]),
        "memory_bytes": peak_bytes() - before,
        "torch": torch.__version__,
        "layout": layout,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
