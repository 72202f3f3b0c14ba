#!/usr/bin/env python3
"""Time whole training steps in PyTorch and print one JSON object per mode.

    step_torch.py CONFIG FRAMES HEIGHT WIDTH STEPS f32|bf16 default|channels-last [cpu|cuda] [MODE,...] [ENGINES]

CONFIG has all keys written out. The step is that of tests/oracle, from u8 frames: the generator once, the discriminators on
[real; fake] and their update, the updated discriminators on the same fake, the generator's update and EMA; at a step number
after pretraining and the adversarial ramp. Modes run in the given order; a mode starts faster after one that uses the same
networks (compiled or not):

    eager              without torch.compile
    captured           the whole eager step, updates included, as one CUDA graph
    compiled           networks and losses through torch.compile, with static shapes
    compiled-captured  the whole compiled step as one CUDA graph
    compile            only fills the compiler's cache for `compiled`, with one forward pass of each compiled function. The
                       activations kept for backward passes, most of a step's memory, are freed at once. Processes with
                       caches in the same folder run their forward passes one at a time

ENGINES tells how cuDNN's engines are chosen:

    heuristics         by cuDNN
    benchmark          in PyTorch's benchmark mode (the default), which times ten engines per convolution. Some are reference
                       kernels, which take seconds for a large 3-D convolution
    benchmark-4        the same with the first four engines
    none               without cuDNN, by PyTorch's own matrix products

Unpaired configs also take random targets with smoothed edges and random optical flow, which a loader would compute, and draw
augmentation and motion in each step.

PyTorch uses its fast options: channels-last memory, fused AdamW, multi-tensor EMA and clipping, gradients set to None, box
filters in two passes, and TF32 if the config allows it. Untimed steps come first, until everything is compiled, chosen and captured. A step time on a
GPU is the time between two events, one after each step, so the host can run ahead; on a CPU it is wall-clock time.
`memory_bytes` on a GPU is the device memory that the process takes, as celforge counts it; `allocated_bytes` is the peak of
the tensors alone. `kernels` lists the slowest kernels (on a CPU: operators) of one more step from PyTorch's profiler as
[name, calls, total seconds]; modes with a CUDA graph have no such list.

Prints "begin MODE" on stdout before each mode. A mode that fails does not affect the others and is named at the end of
stderr. Exit code: 3 if PyTorch could not run a mode (a RuntimeError: no memory, no torch.compile), 1 for any other error,
4 if the GPU no longer works after a failure. In that case the process ends at once: the remaining modes need a new one.
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
import torch.nn.functional as F

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "oracle"))
from celforge_torch import Training, clips, normalize, parse_config  # noqa: E402

MODES = ["eager", "captured", "compiled", "compiled-captured", "compile"]
ENGINES = {"heuristics": 0, "benchmark": 10, "benchmark-4": 4, "none": 0}  # number of engines that are timed
WARMUP_STEPS, MIN_STEPS = 3, 5
MAX_LOCK_SECONDS = 60  # to wait for a forward pass of another process
MAX_TIMED_SECONDS = 5  # of timed steps, unless MIN_STEPS take longer
KERNELS_LISTED = 12
FAILED, UNSUPPORTED, DEVICE_BROKEN = 1, 3, 4  # exit codes


class Device:
    """Measures time and memory on a CPU or GPU."""

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

    def reset_memory(self):
        """Frees the memory of earlier modes and resets the peak."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def synchronize(self):
        if self.on_gpu:
            torch.cuda.synchronize()

    def works(self):
        """Returns False if the device no longer works after a failure."""
        try:
            self.synchronize()
        except RuntimeError:
            return False
        return True

    def record_event(self):
        """Returns a timestamp that is taken after all work started before (on a GPU: an event)."""
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
    clips.box_mean = separable_box_mean


def separable_box_mean(x, radius):
    """clips.box_mean by rows, then by columns: fewer operations, other rounding."""
    for kernel, padding in (((1, 2 * radius + 1), (0, radius)), ((2 * radius + 1, 1), (radius, 0))):
        x = F.avg_pool2d(x, kernel, 1, padding, count_include_pad=False)
    return x


def use_channels_last(training):
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for network in (*training.networks.values(), training.perceptual):
        for p in network.parameters():
            if p.dim() in formats:
                p.data = p.data.contiguous(memory_format=formats[p.dim()])


def compile_backward_passes_at_once():
    """Compiles backward passes together with their forward passes instead of at their first run, if PyTorch supports it."""
    settings = importlib.import_module("torch._functorch.config")
    if hasattr(settings, "force_non_lazy_backward_lowering"):
        settings.force_non_lazy_backward_lowering = True


class ForwardLock:
    """Lock by which parallel compiling processes run their forward passes one at a time: each takes most of the GPU's memory."""

    def __init__(self):
        folder = os.path.dirname(os.path.abspath(os.environ.get("TORCHINDUCTOR_CACHE_DIR", "/tmp/any")))
        os.makedirs(folder, exist_ok=True)
        self.file = open(os.path.join(folder, "forward-lock"), "a", encoding="ascii")  # open until the process ends

    def backend(self, graph, inputs):
        """A backend for torch.compile: the default one, with compiled functions that acquire the lock first."""
        function = importlib.import_module("torch._inductor.compile_fx").compile_fx(graph, inputs)

        def run(*values):
            self.acquire()
            return function(*values)

        return run

    def acquire(self):
        """Continues without the lock after MAX_LOCK_SECONDS, because the process that holds it may hang."""
        end = time.perf_counter() + MAX_LOCK_SECONDS
        while time.perf_counter() < end:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.05)

    def call(self, function, *values):
        """Calls a compiled function and releases the lock. Returns its result without the graph for a backward pass."""
        try:
            return function(*values).detach()
        finally:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            fcntl.flock(self.file, fcntl.LOCK_UN)


class Step:
    """A training step, always on the same clips. Calling it returns its losses. compile() needs a `forward_lock`."""

    def __init__(self, config, device, half, layout, compiled, forward_lock=None):
        if compiled and not hasattr(torch, "compile"):
            raise RuntimeError(f"PyTorch {torch.__version__} has no torch.compile")
        if compiled:
            compile_backward_passes_at_once()
        self.config = config
        self.training = training = Training(config, norms=False, fused=device == "cuda")
        # Like `celforge bench step`, which times a step without R1 if R1 is applied every N steps.
        training.applies_r1 = lambda number: config.loss.r1 > 0 and config.loss.r1_interval == 1
        training.to(device=device)
        if layout == "channels-last":
            use_channels_last(training)
        training.ema = {name: p.detach().clone() for name, p in training.generator.named_parameters()}
        memory = torch.channels_last_3d if layout == "channels-last" else torch.contiguous_format
        self.prepare = lambda clip: normalize(clip).contiguous(memory_format=memory)
        self.number = config.optim.pretrain_steps + config.optim.adversarial_ramp_steps
        self.clips, self.extras, self.forward_lock = (), {}, forward_lock
        self.draw, training.inputs = training.inputs, self.inputs
        networks = ("encode", "decode") if config.loss.patch_nce > 0 else ("forward",)
        parts = [(training.generator, name) for name in networks]
        parts += [(training, "discriminator_loss"), (training, "generator_loss")]
        for owner, name in [(self, "prepare"), *parts]:
            function = getattr(owner, name)
            if half and owner is not self:
                function = torch.autocast(device, torch.bfloat16)(function)
            if compiled:
                function = torch.compile(function, dynamic=False, backend=forward_lock.backend if forward_lock else "inductor")
            setattr(owner, name, function)

    def inputs(self, number, source, target):
        """Random numbers, and what a loader adds to the clips (`extras`)."""
        extras = {name: self.prepare(value) if value.dtype == torch.uint8 else value for name, value in self.extras.items()}
        return self.draw(number, source, target)._replace(**extras)

    def __call__(self):
        source, target = (self.prepare(clip) for clip in self.clips)
        return self.training.step(self.number, source, target)

    def compile(self):
        """Calls each compiled function as a step does, without backward passes."""
        training, call = self.training, self.forward_lock.call
        source, target = (call(self.prepare, clip) for clip in self.clips)
        if self.config.loss.patch_nce > 0:
            raise RuntimeError("compiling ahead is not supported with PatchNCE")
        output, inputs = call(training.generator, source), self.inputs(self.number, source, target)
        if training.adversarial:
            call(lambda *values: training.discriminator_loss(*values)[0], source, target, output, inputs)
        training.discriminator.requires_grad_(False)
        weight = training.adversarial_weight(self.number)
        call(training.generator_loss, source, target, output.requires_grad_(), {}, weight, False, inputs, None)
        training.discriminator.requires_grad_(True)


def capture(step):
    """Captures the step as one CUDA graph. Returns a function that replays it and returns its losses."""
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(WARMUP_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(side_stream)
    torch.cuda.empty_cache()  # a graph has its own memory pool
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = step()

    def replay():
        graph.replay()
        return losses

    return replay


def steps_in_time(step, steps, device):
    """Returns how many of `steps` fit into MAX_TIMED_SECONDS, at least MIN_STEPS. Runs one step, so call it after warm-up."""
    begin = time.perf_counter()
    step()
    device.synchronize()
    return max(MIN_STEPS, min(steps, int(MAX_TIMED_SECONDS / (time.perf_counter() - begin))))


def measure(step, steps, device):
    """Returns the median seconds of a step."""
    for _ in range(WARMUP_STEPS - 1):
        step()
    device.synchronize()
    count = steps_in_time(step, steps, device)
    events = [device.record_event()]
    for _ in range(count):
        losses = step()
        events.append(device.record_event())
    device.synchronize()
    if not all(torch.isfinite(loss) for loss in losses.values()):
        raise RuntimeError(f"losses that are not finite: {losses}")
    return statistics.median(device.seconds(*pair) for pair in zip(events, events[1:]))


def slowest_kernels(step, device):
    """Returns [name, calls, total seconds] of the slowest kernels of one step."""
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if device.on_gpu else activity.CPU]) as profile:
        step()
        device.synchronize()
    events = profile.key_averages()
    # PyTorch 2.4 renamed the attribute.
    name = "self_cpu_time_total" if not device.on_gpu else next(
        name for name in ("self_device_time_total", "self_cuda_time_total") if not events or hasattr(events[0], name))
    events = sorted(events, key=lambda event: -getattr(event, name))[:KERNELS_LISTED]
    return [[event.key, event.count, getattr(event, name) / 1e6] for event in events]


def random_clips(config, size, device):
    shape = (config.train.global_batch, *size, 3)
    return tuple(torch.randint(0, 256, shape, dtype=torch.uint8).to(device) for _ in range(2))


def random_extras(config, size, device):
    """What a loader adds to unpaired clips: targets with smoothed edges, optical flow and its mask."""
    batch, (frames, height, width), extras = config.train.global_batch, size, {}
    if config.loss.edge_negatives > 0:
        extras["smoothed"] = torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8).to(device)
    if config.loss.flow_consistency > 0 and frames > 1:
        extras["flow"] = torch.randn(batch, frames - 1, height, width, 2).to(device)
        extras["flow_mask"] = torch.randint(0, 2, (batch, frames - 1, height, width, 1)).float().to(device)
    return extras


def main():
    path, (*size, steps), precision, layout = sys.argv[1], map(int, sys.argv[2:6]), *sys.argv[6:8]
    name, modes, engines = (sys.argv[8:11] + ["cpu", "eager", "benchmark"][len(sys.argv[8:11]):])
    modes = modes.split(",")
    if not set(modes) <= set(MODES) or engines not in ENGINES:
        sys.exit(f"modes {modes}, engines {engines}: allowed: modes {MODES}, engines {list(ENGINES)}")
    with open(path, encoding="utf-8") as file:
        config = parse_config(file.read())
    set_up_torch(config, engines)
    device = Device(name)
    # The current step by whether it is compiled; at most one, because each holds the networks and Adam's moments.
    step_of, failures = {}, []
    code = UNSUPPORTED
    for mode in modes:
        print(f"begin {mode}", flush=True)
        begin, step, compiled = time.perf_counter(), None, mode.startswith("compile")
        try:
            if compiled not in step_of:
                step_of.clear()
            device.reset_memory()
            if not step_of:
                lock = ForwardLock() if mode == "compile" else None
                step_of[compiled] = Step(config, name, precision == "bf16", layout, compiled, lock)
                step_of[compiled].clips = random_clips(config, size, name)
                step_of[compiled].extras = random_extras(config, size, name)
            step = step_of[compiled]
            if mode == "compile":
                step.compile()
                print(f"compiled in {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
                continue
            if mode.endswith("captured"):
                step = capture(step)
            seconds = measure(step, steps, device)
            result = {"mode": mode, "layout": layout, "engines": engines, "step_seconds": seconds, **device.memory(),
                      "total_seconds": time.perf_counter() - begin, "torch": torch.__version__}
            if not mode.endswith("captured"):
                try:
                    result["kernels"] = slowest_kernels(step, device)
                except RuntimeError as error:  # the step time remains valid
                    print(f"{mode}: no profile: {error}", file=sys.stderr)
            print(json.dumps(result), flush=True)
        except Exception as error:
            # PyTorch raises RuntimeErrors, such as torch.OutOfMemoryError and most errors of its compiler.
            code = code if isinstance(error, RuntimeError) else FAILED
            traceback.print_exc()
            failures.append(f"{mode} ({type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]})")
            step_of.clear()  # an unfinished step leaves gradients behind, and layers with requires_grad off
            if not device.works():
                print(f"the device no longer works: {failures[-1]}", file=sys.stderr, flush=True)
                os._exit(DEVICE_BROKEN)  # skips destructors, which would use the device
    if failures:
        print(f"failed: {', '.join(failures)}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
