#!/usr/bin/env python3
"""Times whole training steps in PyTorch and prints one JSON object a mode.

    step_torch.py CONFIG FRAMES HEIGHT WIDTH STEPS f32|bf16 default|channels-last [cpu|cuda] [MODE,...]

CONFIG is a complete config. The step is that of tests/oracle: the generator once, the discriminators
on [real; fake] and their update, the updated discriminators on the same fake, the generator's update
and EMA, from u8 frames on, with everything after the first warm-up and fade-in. Modes, in this order:

    eager              as written
    captured           the whole eager step, updates included, as one CUDA graph
    compiled           networks and losses through torch.compile, for the very shapes there are
    compiled-captured  the whole compiled step as one CUDA graph

PyTorch has what it offers for speed: cuDNN's benchmark mode, channels-last memory, fused AdamW, multi-tensor
EMA and clipping, gradients set to None; TF32 as the config says. Some steps come first, untimed, until everything is compiled, chosen
and captured. Step times on a GPU are those between events behind each step, so the host may run ahead; on a CPU
those of the clock. `memory_bytes` on a GPU is what the device has less of than when the process came to it, as
celforge counts it; `allocated_bytes` the peak of the tensors alone.
"""
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

MODES = ["eager", "captured", "compiled", "compiled-captured"]
WARMUP_STEPS = 3


class Device:
    """Time and memory as the device has them."""

    def __init__(self, name):
        self.name, self.on_gpu = name, name == "cuda"
        if self.on_gpu:
            torch.cuda.init()
        self.before = torch.cuda.mem_get_info()[0] if self.on_gpu else self.peak_resident()

    @staticmethod
    def peak_resident():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def memory(self):
        if not self.on_gpu:
            return {"memory_bytes": self.peak_resident() - self.before}
        return {"memory_bytes": self.before - torch.cuda.mem_get_info()[0], "allocated_bytes": torch.cuda.max_memory_allocated()}

    def synchronize(self):
        if self.on_gpu:
            torch.cuda.synchronize()

    def mark(self):
        """This moment, behind everything started before it."""
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin, end):
        return begin.elapsed_time(end) / 1e3 if self.on_gpu else end - begin


def set_up_torch(config):
    if config.train.threads > 0:
        torch.set_num_threads(config.train.threads)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = config.cuda.tf32
    torch.backends.cuda.matmul.allow_tf32 = config.cuda.tf32
    torch.manual_seed(config.run.seed)


def use_channels_last(training):
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for network in training.networks.values():
        for p in network.parameters():
            if p.dim() in formats:
                p.data = p.data.contiguous(memory_format=formats[p.dim()])


class Step:
    """One training step on the same clips each time; calling it returns its losses."""

    def __init__(self, config, device, half, layout, compiled):
        self.training = training = Training(config, norms=False, fused=device == "cuda")
        training.to(device=device)
        if layout == "channels-last":
            use_channels_last(training)
        training.ema = {name: p.detach().clone() for name, p in training.generator.named_parameters()}
        memory = torch.channels_last_3d if layout == "channels-last" else torch.contiguous_format
        self.prepare = lambda clip: normalize(clip).contiguous(memory_format=memory)
        self.number = config.optim.l1_warmup + config.optim.fade_in
        self.clips = ()
        parts = [(training.generator, "forward"), (training, "discriminator_loss"), (training, "generator_loss")]
        for owner, name in [(self, "prepare"), *parts]:
            function = getattr(owner, name)
            if half and owner is not self:
                function = torch.autocast(device, torch.bfloat16)(function)
            if compiled:
                function = torch.compile(function, dynamic=False)
            setattr(owner, name, function)

    def __call__(self):
        film, target = (self.prepare(clip) for clip in self.clips)
        return self.training.step(self.number, film, target)


def capture(step):
    """The step as one CUDA graph: a function that replays it and returns its losses."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARMUP_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.empty_cache()  # a graph has memory of its own
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = step()

    def replay():
        graph.replay()
        return losses

    return replay


def measure(step, steps, device):
    for _ in range(WARMUP_STEPS):
        step()
    device.synchronize()
    marks = [device.mark()]
    for _ in range(steps):
        losses = step()
        marks.append(device.mark())
    device.synchronize()
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    return statistics.median(device.seconds(*pair) for pair in zip(marks, marks[1:]))


def random_clips(config, size, device):
    shape = (config.train.global_batch, *size, 3)
    return tuple(torch.randint(0, 256, shape, dtype=torch.uint8).to(device) for _ in range(2))


def main():
    path, (*size, steps), precision, layout = sys.argv[1], map(int, sys.argv[2:6]), *sys.argv[6:8]
    name, modes = (sys.argv[8:10] + ["cpu", "eager"][len(sys.argv[8:10]):])
    modes = modes.split(",")
    if not set(modes) <= set(MODES):
        sys.exit(f"modes {modes}: allowed are {MODES}")
    with open(path, encoding="utf-8") as file:
        config = parse_config(file.read())
    set_up_torch(config)
    device = Device(name)
    steppers = {}
    for mode in modes:
        begin = time.perf_counter()
        compiled = mode.startswith("compiled")
        if compiled not in steppers:
            steppers[compiled] = Step(config, name, precision == "bf16", layout, compiled)
            steppers[compiled].clips = random_clips(config, size, name)
        step = steppers[compiled]
        if mode.endswith("captured"):
            step = capture(step)
        seconds = measure(step, steps, device)
        result = {"mode": mode, "layout": layout, "step_seconds": seconds, **device.memory(),
                  "seconds_in_all": time.perf_counter() - begin, "torch": torch.__version__}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
