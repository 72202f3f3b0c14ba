#!/usr/bin/python3
"""Times whole training steps in PyTorch and prints one JSON object.

    step_torch.py CONFIG FRAMES HEIGHT WIDTH STEPS f32|bf16 default|channels-last [cpu|cuda] [eager|compiled|graphs]

CONFIG is a complete config. The step is that of tests/oracle: the generator once, the discriminators
on [real; fake] and their update, the updated discriminators on the same fake, the generator's update
and EMA, from u8 frames on. A few steps come first, untimed. `compiled` hands both networks to
torch.compile, `graphs` lets it capture CUDA graphs as well.
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

WARMUP_STEPS = {"eager": 3, "compiled": 4, "graphs": 8}


class Clock:
    """Time and memory as the device has them."""

    def __init__(self, device):
        self.on_gpu = device == "cuda"
        self.before = 0 if self.on_gpu else self.peak_bytes()

    def peak_bytes(self):
        if self.on_gpu:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def now(self):
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def used_bytes(self):
        return self.peak_bytes() - self.before


def make_training(config, layout, device, mode):
    torch.manual_seed(config.run.seed)
    training = Training(config, norms=False, fused=device == "cuda")
    training.to(device=device)
    if layout == "channels-last":
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        for network in training.networks.values():
            for p in network.parameters():
                if p.dim() in formats:
                    p.data = p.data.contiguous(memory_format=formats[p.dim()])
    training.ema = {name: p.detach().clone() for name, p in training.generator.named_parameters()}
    if mode != "eager":
        options = {"mode": "reduce-overhead"} if mode == "graphs" else {}
        training.generator.forward = torch.compile(training.generator.forward, **options)
        training.discriminator.forward = torch.compile(training.discriminator.forward, **options)
    return training


def main():
    path, (frames, height, width, steps), precision, layout = sys.argv[1], map(int, sys.argv[2:6]), *sys.argv[6:8]
    device, mode = (sys.argv[8:10] + ["cpu", "eager"][len(sys.argv[8:10]):])
    with open(path, encoding="utf-8") as file:
        config = parse_config(file.read())
    if config.train.threads > 0:
        torch.set_num_threads(config.train.threads)
    torch.backends.cudnn.benchmark = True
    clock = Clock(device)
    training = make_training(config, layout, device, mode)
    shape = (config.train.global_batch, frames, height, width, 3)
    source, target = (torch.randint(0, 256, shape, dtype=torch.uint8).to(device) for _ in range(2))
    memory = torch.channels_last_3d if layout == "channels-last" else torch.contiguous_format
    half = precision == "bf16"
    cast = torch.autocast(device, torch.bfloat16) if half else contextlib.nullcontext()
    number = config.optim.l1_warmup + config.optim.fade_in
    warmup = WARMUP_STEPS[mode]
    seconds = []
    for _ in range(warmup + steps):
        if mode == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        begin = clock.now()
        with cast:
            clips = (normalize(clip).contiguous(memory_format=memory) for clip in (source, target))
            losses = training.step(number, *clips)
        seconds.append(clock.now() - begin)
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    result = {
        "step_seconds": statistics.median(seconds[warmup:]),
        "memory_bytes": clock.used_bytes(),
        "torch": torch.__version__,
        "layout": layout,
        "mode": mode,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
