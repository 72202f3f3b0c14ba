#!/usr/bin/python3
"""The steps that the benchmark times in PyTorch do what Celforge's do.

For the networks, losses and updates of demo, base and hd, narrower and on small clips: Celforge trains on one batch;
PyTorch takes weights, moments and EMA from the checkpoint after step 1 and goes on through the benchmark's own code,
in both memory layouts, cuDNN's engines chosen in both ways, and, from version 2.2 on, compiled once. Every loss and
gradient norm of the following steps agrees: within 1e-3 of its value (of at least 1e-2) in f32, within 5e-2 in bf16.
On a GPU where both sides have one, else on the CPU.

    tests/bench/test_step_torch.py [demo | base | hd ...]      default: all three
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
sys.path += [HERE, os.path.join(HERE, "..")]
import runs  # noqa: E402
import step_torch  # noqa: E402

STEPS, CLIPS, FRAMES, SIZE = 5, 2, 2, 96
# Without warm-up and fade-in every step has the same losses and the same rates.
SAME = {
    "data.flip": False, "data.frames": 0, "data.crop_height": 0, "data.crop_width": 0, "model.channels": 8, "model.blocks": 2,
    "model.image_channels": 8, "model.video_channels": 8, "optim.pretrain_steps": 0, "optim.adversarial_ramp_steps": 0, "optim.lr_warmup_steps": 0,
    "optim.lr_schedule": "constant", "optim.generator_lr": 1e-4, "optim.discriminator_lr": 1e-4, "train.steps": STEPS,
    "train.global_batch": CLIPS, "train.micro_batch": CLIPS, "train.threads": 1,
    "metrics.every": 1, "checkpoint.every": 1,
    "checkpoint.keep": 100, "samples.every": 0, "cuda.autotune": False,
}  # fmt: skip
ALLOWED = {"f32": 1e-3, "bf16": 5e-2}
VERSION = tuple(map(int, torch.__version__.split(".")[:2]))


class OurRun(runs.Run):
    """A config of ours, made small."""

    def __init__(self, folder, data, path, precision):
        super().__init__(folder, data, {})
        with open(path, encoding="utf-8") as file:
            sections = yaml.safe_load(file)
        keys = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
        self.settings = {**keys, **SAME, "train.precision": precision, "run.dir": folder, "data.path": data}

    def losses(self):
        return [{key: value for key, value in record.items() if key.startswith(("loss/", "grad_norm/"))} for record in self.metrics()]


def their_losses(run, precision, device, layout, engines, compiled):
    """Losses and norms of steps 2 to STEPS by the benchmark's PyTorch."""
    with open(run.path("config.yaml"), encoding="utf-8") as file:
        config = step_torch.parse_config(file.read())
    step_torch.set_up_torch(config, engines)
    step = step_torch.Step(config, device, precision == "bf16", layout, compiled)
    step.training.load(run.checkpoint(1))
    with h5py.File(glob.glob(os.path.join(run.settings["data.path"], "shard-*.h5"))[0], "r") as file:
        step.clips = tuple(torch.from_numpy(file[f"clips/{side}"][:]).to(device) for side in ("source", "target"))
    return [{name: float(loss) for name, loss in step().items()} for _ in range(STEPS - 1)]


def deviation(ours, theirs):
    """The largest, and where."""
    worst, where = 0.0, "nowhere"
    for number, (one, other) in enumerate(zip(ours, theirs), 2):
        if one.keys() != other.keys():
            return float("inf"), f"step {number}: {sorted(one)} and {sorted(other)}"
        for name, value in other.items():
            apart = abs(one[name] - value) / max(abs(value), 1e-2)
            if not apart <= worst:
                worst, where = apart, f"step {number}, {name}: {one[name]} and {value}"
    return worst, where


def compare(tap, run, name, precision, device, layout, engines, compiled=False):
    theirs = their_losses(run, precision, device, layout, engines, compiled)
    worst, where = deviation(run.losses()[1:], theirs)
    way = f"{name}, {precision}, {layout}, {engines}{', compiled' if compiled else ''}"
    tap.check(worst <= ALLOWED[precision], f"{way}: losses and norms of {STEPS - 1} steps within {ALLOWED[precision]}", where)
    print(f"# on {device}, largest deviation {worst:.2g}: {where}", flush=True)


def main():
    tap, trained, names = runs.Tap(), {}, sys.argv[1:] or ["demo", "base", "hd"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and VERSION >= (2, 0):
        torch.backends.mkldnn.set_flags(False)  # 2.11's convolutions in bf16 write past their memory with AMX
    with tempfile.TemporaryDirectory(prefix="celforge-step-") as folder:
        data = os.path.join(folder, "data")
        runs.subprocess.run([runs.CELFORGE, "synth", data, "--clips", str(CLIPS), "--frames", str(FRAMES), "--size",
                             f"{SIZE}x{SIZE}"], check=True, capture_output=True, timeout=runs.LIMIT)
        for name in names:
            for precision in ALLOWED:
                trained[name, precision] = run = OurRun(os.path.join(folder, f"{name}-{precision}"), data,
                                                        os.path.join(ROOT, "configs", name + ".yaml"), precision)
                run.must_train()
                compare(tap, run, name, precision, device, "default", "heuristics")
                # In f32 cuDNN has engines for channels-last that are coarser than 1e-3 allows, its heuristics' first ones too.
                compare(tap, run, name, precision, device, "channels-last", "none" if precision == "f32" else "benchmark")
        if VERSION >= (2, 2) and "base" in names:  # once, and last, since that takes minutes on few cores: base has every loss
            compare(tap, trained["base", "bf16"], "base", "bf16", device, "channels-last", "heuristics", True)
    tap.end()


if __name__ == "__main__":
    main()
