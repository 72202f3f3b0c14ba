#!/usr/bin/python3
"""Memory of a GPU: the plan says what a run takes, a GPU that is too small is told which settings would fit, and
with those it runs. Only an emulated GPU can be made smaller."""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import runs  # noqa: E402

SLACK = 1 << 20  # for what is not the model's: tables of kernels, gaps between allocations
BATCH = {"train.device": "cuda", "train.global_batch": 4, "train.micro_batch": 4, "train.steps": 5, "model.channels": 8}


def plan(run):
    """Bytes: of the run, free, all there are; and whether it is said to fit."""
    run.write_config()
    said = subprocess.run([runs.CELFORGE, "train", run.config, "--plan"], capture_output=True, timeout=runs.LIMIT,
                          env={**runs.ENVIRONMENT, **run.environment}, text=True, check=True).stdout
    sizes = [int(re.search(name + r" .*\((\d+) bytes\)", said)[1]) for name in ("in all", "free on the device now", "of ")]
    return (*sizes, "it fits" in said)


def a_run(folder, name, data, limit=None, **settings):
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    run = runs.Run(os.path.join(folder, name), data, {**BATCH, **settings})
    if limit:
        run.environment["EMULATOR_MEMORY"] = str(limit)
    return run


def test_plan(tap, folder):
    """The plan of a run"""
    data = runs.synth(os.path.join(folder, "data"))
    needed, free, total, fits = plan(a_run(folder, "plan", data))
    half, *_ = plan(a_run(folder, "half", data, train__micro_batch=2))
    tap.check(fits and 0 < half < needed < free <= total, "--plan says what a run takes, what is free, and that it fits",
              f"{half} {needed} {free} {total} {fits}")


def test_too_small(tap, folder):
    """A GPU that is too small for a run"""
    data = runs.synth(os.path.join(folder, "data"))
    _, free, total, _ = plan(a_run(folder, "plan", data))
    changes = {"train.micro_batch: 2": {"train__micro_batch": 2}, "train.recompute: true": {"train__recompute": True}}
    for words, settings in changes.items():
        needed, *_ = plan(a_run(folder, "needs", data, **settings))
        limit = total - free + needed + SLACK
        run = a_run(folder, "large", data, limit)
        fits = plan(run)[-1]
        tap.check(not fits, f"--plan says that it does not fit where {words} would")
        code, said = run.train(), run.said()
        tap.check(code == 70 and f"{words} needs" in said and " are free" in said and not run.checkpoints(),
                  f"a run that does not fit ends with what was asked, what is free, and {words}", f"{code}\n{said}")
        run = a_run(folder, "fitting", data, limit, **settings)
        code = run.train()
        tap.check(code == 0, f"with {words} it runs in that memory", f"{code}\n{run.said()}")


def is_emulated(folder):
    """Whether the GPU there is takes the limit it is given."""
    run = a_run(folder, "probe", runs.synth(os.path.join(folder, "probe-data")), 1 << 29)
    return plan(run)[2] == 1 << 29


def test_limits(tap, folder):
    """GPUs that are too small"""
    if is_emulated(folder):
        test_too_small(tap, folder)
    else:
        tap.skip(test_too_small.__doc__, "the memory of a real GPU is what it is")


if __name__ == "__main__":
    runs.main_on_gpu([test_plan, test_limits])
