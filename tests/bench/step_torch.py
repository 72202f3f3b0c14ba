#!/usr/bin/env python3
"""Times whole training steps in PyTorch and prints one JSON object a mode.

    step_torch.py CONFIG FRAMES HEIGHT WIDTH STEPS f32|bf16 default|channels-last [cpu|cuda] [MODE,...] [ENGINES]

CONFIG is a complete config. The step is that of tests/oracle: the generator once, the discriminators
on [real; fake] and their update, the updated discriminators on the same fake, the generator's update
and EMA, from u8 frames on, with everything after the first warm-up and fade-in. Modes, one after the other as
given; one behind another that shares its networks begins the sooner:

    eager              as written
    captured           the whole eager step, updates included, as one CUDA graph
    compiled           networks and losses through torch.compile, for the very shapes there are
    compiled-captured  the whole compiled step as one CUDA graph
    compile            nothing is timed: what `compiled` needs is left in the compiler's cache, by one forward pass
                       after the other. Most of a step's memory is what they keep for backward ones, which is let go
                       at once here; and processes whose caches lie in one folder run them one at a time

ENGINES is how cuDNN's are chosen: by its heuristics, or (benchmark, which is what is taken without it) in PyTorch's
benchmark mode, which times ten for each convolution, reference kernels among them: on large 3-D ones one run of
those takes seconds. benchmark-4 times the first four. none: without cuDNN, by PyTorch's own matrix products.

PyTorch has what it offers for speed: channels-last memory, fused AdamW, multi-tensor EMA and clipping, gradients set
to None; TF32 as the config says. Some steps come first, untimed, until everything is compiled, chosen and captured.
Step times on a GPU are those between events behind each step, so the host may run ahead; on a CPU those of the clock.
`memory_bytes` on a GPU is what the device has less of than when the process came to it, as celforge counts it;
`allocated_bytes` the peak of the tensors alone. `kernels` are those that one more step spent most of its time in, by
PyTorch's profiler: name, how often, seconds in all (on a CPU operators instead); not of a step that is one CUDA graph.

Before each mode stdout says "begin MODE". A mode that fails costs the others nothing: it is named at the end of stderr,
and the exit code is 3 where PyTorch could not do it (for want of memory or of torch.compile: a RuntimeError), else 1.
Where the GPU does nothing more after a failure, the process ends at once with 4: what comes behind needs a new one.
"""
import fcntl
import gc
import importlib
import json
import os
import resource
import statistics
import sys
import time
import traceback

import torch

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "oracle"))
from celforge_torch import Training, normalize, parse_config  # noqa: E402

MODES = ["eager", "captured", "compiled", "compiled-captured", "compile"]
ENGINES = {"heuristics": 0, "benchmark": 10, "benchmark-4": 4, "none": 0}  # how many are timed
WARMUP_STEPS, LEAST_STEPS = 3, 5
MOST_WAITING = 60  # seconds, for one's turn
MOST_SECONDS = 5  # that are timed, unless LEAST_STEPS take longer
KERNELS = 12  # that are named
FAILED, UNMEASURED, BROKEN = 1, 3, 4  # exit codes: something is wrong; PyTorch cannot; the device is of no more use


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

    def forget(self):
        """What earlier modes left behind, and their peak."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def synchronize(self):
        if self.on_gpu:
            torch.cuda.synchronize()

    def works(self):
        """Whether it does anything more after a failure."""
        try:
            self.synchronize()
        except RuntimeError:
            return False
        return True

    def mark(self):
        """This moment, behind everything started before it."""
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin, end):
        return begin.elapsed_time(end) / 1e3 if self.on_gpu else end - begin


def set_up_torch(config, engines="benchmark"):
    if config.train.threads > 0:
        torch.set_num_threads(config.train.threads)
    torch.backends.cudnn.enabled = engines != "none"
    torch.backends.cudnn.benchmark = ENGINES[engines] > 0
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark_limit = ENGINES[engines]
    torch.backends.cudnn.allow_tf32 = config.cuda.tf32
    torch.backends.cuda.matmul.allow_tf32 = config.cuda.tf32
    torch.manual_seed(config.run.seed)


def use_channels_last(training):
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for network in (*training.networks.values(), training.perceptual):
        for p in network.parameters():
            if p.dim() in formats:
                p.data = p.data.contiguous(memory_format=formats[p.dim()])


def compile_backward_passes_at_once():
    """With their forward passes, not when they first run, where this PyTorch can."""
    settings = importlib.import_module("torch._functorch.config")
    if hasattr(settings, "force_non_lazy_backward_lowering"):
        settings.force_non_lazy_backward_lowering = True


class Turns:
    """Processes that compile side by side run what they compiled one at a time: each takes most of a GPU's memory then."""

    def __init__(self):
        folder = os.path.dirname(os.path.abspath(os.environ.get("TORCHINDUCTOR_CACHE_DIR", "/tmp/any")))
        os.makedirs(folder, exist_ok=True)
        self.file = open(os.path.join(folder, "turns"), "a", encoding="ascii")  # held until the process ends

    def backend(self, graph, inputs):
        """For torch.compile: the usual one, whose code waits for its turn."""
        function = importlib.import_module("torch._inductor.compile_fx").compile_fx(graph, inputs)

        def run(*values):
            self.begin()
            return function(*values)

        return run

    def begin(self):
        """Another that hangs is not waited for without end."""
        end = time.perf_counter() + MOST_WAITING
        while time.perf_counter() < end:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.05)

    def take(self, function, *values):
        """What it returns, without what a backward pass would want."""
        try:
            return function(*values).detach()
        finally:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            fcntl.flock(self.file, fcntl.LOCK_UN)


class Step:
    """One training step on the same clips each time; calling it returns its losses. `turns`: for compile()."""

    def __init__(self, config, device, half, layout, compiled, turns=None):
        if compiled and not hasattr(torch, "compile"):
            raise RuntimeError(f"PyTorch {torch.__version__} has no torch.compile")
        if compiled:
            compile_backward_passes_at_once()
        self.training = training = Training(config, norms=False, fused=device == "cuda")
        # As `celforge bench step`: with R1 every N steps, a step without it.
        training.applies_r1 = lambda number: config.loss.r1 > 0 and config.loss.r1_interval == 1
        training.to(device=device)
        if layout == "channels-last":
            use_channels_last(training)
        training.ema = {name: p.detach().clone() for name, p in training.generator.named_parameters()}
        memory = torch.channels_last_3d if layout == "channels-last" else torch.contiguous_format
        self.prepare = lambda clip: normalize(clip).contiguous(memory_format=memory)
        self.number = config.optim.pretrain_steps + config.optim.adversarial_ramp_steps
        self.clips, self.turns = (), turns
        parts = [(training.generator, "forward"), (training, "discriminator_loss"), (training, "generator_loss")]
        for owner, name in [(self, "prepare"), *parts]:
            function = getattr(owner, name)
            if half and owner is not self:
                function = torch.autocast(device, torch.bfloat16)(function)
            if compiled:
                function = torch.compile(function, dynamic=False, backend=turns.backend if turns else "inductor")
            setattr(owner, name, function)

    def __call__(self):
        source, target = (self.prepare(clip) for clip in self.clips)
        return self.training.step(self.number, source, target)

    def compile(self):
        """Calls what is compiled as a step does, without a backward pass."""
        training, take = self.training, self.turns.take
        source, target = (take(self.prepare, clip) for clip in self.clips)
        output = take(training.generator, source)
        if training.adversarial:
            take(training.discriminator_loss, source, target, output)
        training.discriminator.requires_grad_(False)
        weight = training.adversarial_weight(self.number)
        take(training.generator_loss, source, target, output.requires_grad_(), {}, weight, False)
        training.discriminator.requires_grad_(True)


def capture(step):
    """The step as one CUDA graph: a function that replays it and returns its losses."""
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


def affordable(step, steps, device):
    """How many steps are timed: fewer of long ones. Behind the warm-up."""
    begin = time.perf_counter()
    step()
    device.synchronize()
    return max(LEAST_STEPS, min(steps, int(MOST_SECONDS / (time.perf_counter() - begin))))


def measure(step, steps, device):
    for _ in range(WARMUP_STEPS - 1):
        step()
    device.synchronize()
    count = affordable(step, steps, device)
    marks = [device.mark()]
    for _ in range(count):
        losses = step()
        marks.append(device.mark())
    device.synchronize()
    if not all(torch.isfinite(loss) for loss in losses.values()):
        raise RuntimeError(f"losses that are not finite: {losses}")
    return statistics.median(device.seconds(*pair) for pair in zip(marks, marks[1:]))


def slowest_kernels(step, device):
    """[name, how often, seconds in all] of one step."""
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if device.on_gpu else activity.CPU]) as profile:
        step()
        device.synchronize()
    events = profile.key_averages()
    # As 2.4 renamed it.
    name = "self_cpu_time_total" if not device.on_gpu else next(
        name for name in ("self_device_time_total", "self_cuda_time_total") if not events or hasattr(events[0], name))
    events = sorted(events, key=lambda event: -getattr(event, name))[:KERNELS]
    return [[event.key, event.count, getattr(event, name) / 1e6] for event in events]


def random_clips(config, size, device):
    shape = (config.train.global_batch, *size, 3)
    return tuple(torch.randint(0, 256, shape, dtype=torch.uint8).to(device) for _ in range(2))


def main():
    path, (*size, steps), precision, layout = sys.argv[1], map(int, sys.argv[2:6]), *sys.argv[6:8]
    name, modes, engines = (sys.argv[8:11] + ["cpu", "eager", "benchmark"][len(sys.argv[8:11]):])
    modes = modes.split(",")
    if not set(modes) <= set(MODES) or engines not in ENGINES:
        sys.exit(f"modes {modes}, engines {engines}: allowed are {MODES}, {list(ENGINES)}")
    with open(path, encoding="utf-8") as file:
        config = parse_config(file.read())
    set_up_torch(config, engines)
    device = Device(name)
    steppers, failures = {}, []  # at most one, compiled or not: each holds the networks and their moments
    code = UNMEASURED
    for mode in modes:
        print(f"begin {mode}", flush=True)
        begin, step, compiled = time.perf_counter(), None, mode.startswith("compile")
        try:
            if compiled not in steppers:
                steppers.clear()
            device.forget()
            if not steppers:
                turns = Turns() if mode == "compile" else None
                steppers[compiled] = Step(config, name, precision == "bf16", layout, compiled, turns)
                steppers[compiled].clips = random_clips(config, size, name)
            step = steppers[compiled]
            if mode == "compile":
                step.compile()
                print(f"compiled in {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
                continue
            if mode.endswith("captured"):
                step = capture(step)
            seconds = measure(step, steps, device)
            result = {"mode": mode, "layout": layout, "engines": engines, "step_seconds": seconds, **device.memory(),
                      "seconds_in_all": time.perf_counter() - begin, "torch": torch.__version__}
            if not mode.endswith("captured"):
                try:
                    result["kernels"] = slowest_kernels(step, device)
                except RuntimeError as error:  # what was measured stays
                    print(f"{mode}: no profile: {error}", file=sys.stderr)
            print(json.dumps(result), flush=True)
        except Exception as error:
            # PyTorch's own are RuntimeErrors, torch.OutOfMemoryError and most of the compiler's included.
            code = code if isinstance(error, RuntimeError) else FAILED
            traceback.print_exc()
            failures.append(f"{mode} ({type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]})")
            steppers.clear()  # half a step leaves gradients, and layers that want none
            if not device.works():
                print(f"the device is broken: {failures[-1]}", file=sys.stderr, flush=True)
                os._exit(BROKEN)  # nothing that touches the device again
    if failures:
        print(f"failed: {', '.join(failures)}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
