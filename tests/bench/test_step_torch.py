#!/usr/bin/python3
"""Checks that the PyTorch step of the benchmark computes the same as Celforge's.

Uses the configs demo, base, hd and unpaired with fewer channels and small clips. Celforge trains on one batch (of unpaired data: on
a batch of either dataset, in another order in each step). PyTorch loads weights,
Adam's moments and EMA from the checkpoint of step 1 and continues with the benchmark's code (step_torch.py), in both memory
layouts, with cuDNN's engines chosen in both ways, and once compiled (PyTorch 2.2 or newer). All losses and gradient norms of
the following steps must agree with a relative deviation of at most 1e-3 in f32 and 5e-2 in bf16 (relative to at least 1e-2).
Runs on a GPU if both have one, else on the CPU.

    tests/bench/test_step_torch.py [demo | base | hd | unpaired ...]      default: all
"""
import glob
import os
import sys
import tempfile

import h5py
import torch
import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.dont_write_bytecode = True
sys.path += [HERE, os.path.join(HERE, ".."), os.path.join(HERE, "..", "oracle")]
import runs  # noqa: E402
import step_torch  # noqa: E402

STEPS, CLIPS, FRAMES, SIZE = 5, 2, 2, 96
# Without pretraining, ramp and warm-up every step has the same losses and learning rates.
SETTINGS = {
    "data.flip": False, "data.frames": 0, "data.crop_height": 0, "data.crop_width": 0, "model.channels": 8, "model.blocks": 2,
    "model.image_channels": 8, "model.video_channels": 8, "optim.pretrain_steps": 0, "optim.adversarial_ramp_steps": 0,
    "optim.lr_warmup_steps": 0, "optim.lr_schedule": "constant", "optim.generator_lr": 1e-4, "optim.discriminator_lr": 1e-4,
    "train.steps": STEPS, "train.global_batch": CLIPS, "train.micro_batch": CLIPS, "train.threads": 1,
    "metrics.every": 1, "checkpoint.every": 1,
    "checkpoint.keep": 100, "samples.every": 0, "cuda.autotune": False,
}  # fmt: skip
TOLERANCE = {"f32": 1e-3, "bf16": 5e-2}
TORCH_VERSION = tuple(map(int, torch.__version__.split(".")[:2]))


class CelforgeRun(runs.Run):
    """A run of a config that is made small."""

    def __init__(self, folder, data, path, precision):
        super().__init__(folder, data, {})
        with open(path, encoding="utf-8") as file:
            sections = yaml.safe_load(file)
        keys = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
        self.settings = {**keys, **SETTINGS, "train.precision": precision, "run.dir": folder, "data.path": data}
        if self.settings.get("data.target_path"):
            self.settings |= {"data.target_path": data + "-targets", "augment.mode": "fixed",
                              "augment.probability": 0.5}

    def losses(self):
        return [{key: value for key, value in record.items() if key.startswith(("loss/", "grad_norm/", "augment/real_sign"))}
                for record in self.metrics()]


def torch_losses(run, precision, device, layout, engines, compiled):
    """Returns losses and gradient norms of steps 2 to STEPS, computed by the benchmark's PyTorch step."""
    with open(run.path("config.yaml"), encoding="utf-8") as file:
        config = step_torch.parse_config(file.read())
    step_torch.set_up_torch(config, engines)
    step = step_torch.Step(config, device, precision == "bf16", layout, compiled)
    step.training.load(run.checkpoint(1))
    if run.settings.get("data.target_path"):
        return unpaired_losses(run, config, step, device)
    with h5py.File(glob.glob(os.path.join(run.settings["data.path"], "shard-*.h5"))[0], "r") as file:
        step.clips = tuple(torch.from_numpy(file[f"clips/{side}"][:]).to(device) for side in ("source", "target"))
    return [{name: float(loss) for name, loss in step().items()} for _ in range(STEPS - 1)]


def unpaired_losses(run, config, step, device):
    """With the clips, and with the random numbers, that Celforge has in each step."""
    import step_inputs  # here, because the bundle for GPU nodes lacks it; unpaired is not among its configs

    clips, metrics, losses = step_inputs.Clips(config, STEPS), run.metrics(), []
    step.draw = lambda number, _, target: step_inputs.draw_inputs(config, clips, number, target.shape, metrics[number])
    for number in range(1, STEPS):
        fields = {name: torch.from_numpy(clips.steps[name][number].copy()).to(device) for name in clips.steps.dtype.names}
        step.clips, step.number = (fields.pop("source"), fields.pop("target")), number
        step.extras = fields
        losses.append({name: float(loss) for name, loss in step().items()})
    return losses


def largest_deviation(ours, theirs):
    """Returns the largest relative deviation, and the step and loss that have it."""
    largest, where = 0.0, "no difference"
    for number, (one, other) in enumerate(zip(ours, theirs), 2):
        if one.keys() != other.keys():
            return float("inf"), f"step {number}: {sorted(one)} and {sorted(other)}"
        for name, value in other.items():
            # Of the mean sign of decisions, the absolute one: a logit near 0 has either sign.
            deviation = abs(one[name] - value) / (1 if name == "augment/real_sign" else max(abs(value), 1e-2))
            if not deviation <= largest:  # also if it is NaN
                largest, where = deviation, f"step {number}, {name}: {one[name]} and {value}"
    return largest, where


def compare(tap, run, name, precision, device, layout, engines, compiled=False):
    theirs = torch_losses(run, precision, device, layout, engines, compiled)
    largest, where = largest_deviation(run.losses()[1:], theirs)
    case = f"{name}, {precision}, {layout}, {engines}{', compiled' if compiled else ''}"
    tap.check(largest <= TOLERANCE[precision],
              f"{case}: losses and gradient norms of {STEPS - 1} steps deviate by at most {TOLERANCE[precision]}", where)
    print(f"# on {device}, largest deviation {largest:.2g}: {where}", flush=True)


def main():
    tap, trained, names = runs.Tap(), {}, sys.argv[1:] or ["demo", "base", "hd", "unpaired"]  # trained: {(config, precision): run}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and TORCH_VERSION >= (2, 0):
        torch.backends.mkldnn.set_flags(False)  # in 2.11, bf16 convolutions with AMX write out of bounds
    with tempfile.TemporaryDirectory(prefix="celforge-step-") as folder:
        data = os.path.join(folder, "data")
        for name, seed in ((data, 1), (data + "-targets", 2)):
            runs.subprocess.run([runs.CELFORGE, "synth", name, "--clips", str(CLIPS), "--frames", str(FRAMES), "--size",
                                 f"{SIZE}x{SIZE}", "--seed", str(seed)], check=True, capture_output=True, timeout=runs.LIMIT)
        for name in names:
            for precision in TOLERANCE:
                trained[name, precision] = run = CelforgeRun(os.path.join(folder, f"{name}-{precision}"), data,
                                                             os.path.join(ROOT, "configs", name + ".yaml"), precision)
                run.must_train()
                compare(tap, run, name, precision, device, "default", "heuristics")
                # Some of cuDNN's f32 engines for channels-last, also the first of its heuristics, deviate by more than 1e-3.
                compare(tap, run, name, precision, device, "channels-last", "none" if precision == "f32" else "benchmark")
        # Compiling takes minutes on few cores, so it is tested once, and last. base has every loss.
        if TORCH_VERSION >= (2, 2) and "base" in names:
            compare(tap, trained["base", "bf16"], "base", "bf16", device, "channels-last", "heuristics", True)
    tap.end()


if __name__ == "__main__":
    main()
