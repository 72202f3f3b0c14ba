#!/usr/bin/python3
"""GPU memory: --plan reports what a run needs; on a GPU that is too small, a run ends with the settings that would fit,
and runs with them. Only the memory of an emulated GPU can be limited."""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import runs  # noqa: E402

SLACK = 1 << 20  # for tables of kernels and gaps between allocations, which the plan does not count
BATCH = {"train.device": "cuda", "train.global_batch": 4, "train.micro_batch": 4, "train.steps": 5, "model.channels": 8}


def read_plan(run):
    """(bytes that the run needs, free bytes, total bytes, whether --plan says that it fits)"""
    run.write_config()
    output = subprocess.run([runs.CELFORGE, "train", run.config, "--plan"], capture_output=True, timeout=runs.LIMIT,
                          env={**runs.ENVIRONMENT, **run.environment}, text=True, check=True).stdout
    sizes = [int(re.search(name + r" .*\((\d+) bytes\)", output)[1]) for name in ("in all", "free on the device now", "of ")]
    return (*sizes, "it fits" in output)


def make_run(folder, name, data, limit=None, **settings):
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    run = runs.Run(os.path.join(folder, name), data, {**BATCH, **settings})
    if limit:
        run.environment["EMULATOR_MEMORY"] = str(limit)
    return run


def test_plan(tap, folder):
    """--plan reports the memory of a run"""
    data = runs.synth(os.path.join(folder, "data"))
    needed, free, total, fits = read_plan(make_run(folder, "plan", data))
    half, *_ = read_plan(make_run(folder, "half", data, train__micro_batch=2))
    tap.check(fits and 0 < half < needed < free <= total, "--plan reports needed and free bytes, and that the run fits",
              f"{half} {needed} {free} {total} {fits}")


def test_too_small(tap, folder):
    """On a GPU that is too small a run names the settings that fit"""
    data = runs.synth(os.path.join(folder, "data"))
    _, free, total, _ = read_plan(make_run(folder, "plan", data))
    changes = {"train.micro_batch: 2": {"train__micro_batch": 2}, "train.recompute: true": {"train__recompute": True}}
    for words, settings in changes.items():
        needed, *_ = read_plan(make_run(folder, "needs", data, **settings))
        limit = total - free + needed + SLACK
        run = make_run(folder, "large", data, limit)
        fits = read_plan(run)[-1]
        tap.check(not fits, f"--plan reports that the run does not fit, while {words} would")
        code, output = run.train(), run.log_text()
        tap.check(code == 70 and f"{words} needs" in output and " are free" in output and not run.checkpoints(),
                  f"a run that does not fit ends with needed and free bytes, and {words}", f"{code}\n{output}")
        run = make_run(folder, "fitting", data, limit, **settings)
        code = run.train()
        tap.check(code == 0, f"with {words} the run fits", f"{code}\n{run.log_text()}")


def is_emulated(folder):
    """True if the memory limit has an effect, that is on the emulator."""
    run = make_run(folder, "probe", runs.synth(os.path.join(folder, "probe-data")), 1 << 29)
    return read_plan(run)[2] == 1 << 29


def test_limits(tap, folder):
    """Runs on GPUs that are too small"""
    if is_emulated(folder):
        test_too_small(tap, folder)
    else:
        tap.skip(test_too_small.__doc__, "a real GPU's memory cannot be limited")


if __name__ == "__main__":
    runs.main_on_gpu([test_plan, test_limits])
