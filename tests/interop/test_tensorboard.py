#!/usr/bin/python3
"""TensorBoard event files, read by the tensorboard package: scalars equal metrics.jsonl, images equal the sample sheets, and
each step appears once, even if the run was killed or rolled back."""
import base64
import json
import os
import shutil
import struct
import subprocess
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
import runs  # noqa: E402
import packages  # noqa: E402
from runs import Run  # noqa: E402

# The packages needed to read event files; the server of tensorboard needs more.
REQUIREMENTS = ["tensorboard==2.20.0", "protobuf==5.29.5", "numpy==2.2.6", "absl-py==2.1.0"]
TENSORBOARD = packages.fetch("tensorboard-2.20.0", REQUIREMENTS, "--no-deps")


def event_files(run):
    return sorted(os.listdir(run.path("tensorboard")))


def read(run):
    done = subprocess.run([sys.executable, os.path.join(HERE, "read_tensorboard.py"), run.path("tensorboard")], timeout=120,
                          check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": TENSORBOARD})
    if done.returncode != 0:
        raise ValueError(f"read_tensorboard.py: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def scalars_of(run):
    """Key -> [step, number], of metrics.jsonl."""
    scalars = {}
    with open(run.path("metrics.jsonl"), encoding="utf-8") as file:
        for line in map(json.loads, file):
            step = line.pop("step")
            for key, value in line.items():
                scalars.setdefault(key, []).append([step, value])
    return scalars


def images_of(run):
    """[step, width, height, PNG] of the sample sheets."""
    images = []
    for name in sorted(os.listdir(run.path("samples"))):
        with open(run.path("samples", name), "rb") as file:
            png = file.read()
        images.append([int(name[5:13]), *struct.unpack(">2I", png[16:24]), base64.b64encode(png).decode()])
    return images


def first_difference(found, wanted):
    """The first difference between scalars, None if there is none. A line holds 9 digits, so the f32 of an event may be off by
    one unit in the last place."""
    if sorted(found) != sorted(wanted):
        return f"keys {sorted(found)}, not {sorted(wanted)}"
    for key, pairs in wanted.items():
        if [step for step, _ in found[key]] != [step for step, _ in pairs]:
            return f"{key}: steps {[step for step, _ in found[key]]}, not {[step for step, _ in pairs]}"
        for (step, value), (_, event) in zip(pairs, found[key]):
            near = np.float32(value)
            if abs(np.float64(event) - np.float64(near)) > np.spacing(abs(near)):
                return f"{key}, step {step}: {event}, not {near}"
    return None


def check_all(tap, run, what):
    """Checks that both readers show the contents of metrics.jsonl and the sheets; returns what they read."""
    found, wanted, sheets = read(run), scalars_of(run), images_of(run)
    for reader in ("purged", "server"):
        wrong = first_difference(found[reader]["scalars"], wanted)
        tap.check(not wrong, f"{what}: {reader}: every scalar, each step once", wrong)
        images = found[reader]["images"].get("samples", [])
        tap.check(images == sheets, f"{what}: {reader}: every sample sheet, byte for byte, in its size",
                  f"{[image[:3] for image in images]}, not {[image[:3] for image in sheets]}")
    return found


def test_run(tap, folder):
    """An uninterrupted run"""
    data = runs.synth(os.path.join(folder, "data"))
    ranks = 2 if shutil.which("mpirun") else 1
    run = Run(os.path.join(folder, "run"), data, {"train.steps": 12, "samples.every": 4}).must_train(ranks)
    found = check_all(tap, run, f"{ranks} ranks")
    tap.check(found["all"] == found["purged"], "no event is discarded")
    tap.check(len(found["all"]["images"]["samples"]) == 3 and len(found["all"]["scalars"]["loss/g"]) == 12
              and ("straggler/rank" in found["all"]["scalars"]) == (ranks == 2), "no event is missing")
    tap.check(len(event_files(run)) == 1, "only rank 0 writes events", event_files(run))


def steps_of(found, key="loss/g"):
    return [step for step, _ in found["scalars"][key]]


def test_kill(tap, folder):
    """Killed while writing an event after its last checkpoint, and resumed"""
    data = runs.synth(os.path.join(folder, "data"))
    run = Run(os.path.join(folder, "run"), data, {"train.steps": 1000000, "checkpoint.every": 8, "samples.every": 2})
    run.start()
    caught = run.stop_ranks_when(lambda: run.checkpoints() and run.metrics_line_count() > run.checkpoints()[-1] + 3)
    run.kill()
    saved, killed = run.checkpoints()[-1], run.metrics_line_count()
    (first,) = event_files(run)
    os.truncate(run.path("tensorboard", first), os.path.getsize(run.path("tensorboard", first)) - 5)
    run.settings["train.steps"] = killed + 5
    run.must_train()
    tap.check(caught and f"at step {saved}" in run.log_text() and killed > saved + 3, "the run resumes at an earlier step than its last line",
              run.log_text())
    tap.check(event_files(run)[0] == first and len(event_files(run)) == 2, "in a second file", event_files(run))
    found = check_all(tap, run, "resumed")
    twice = [step for step in steps_of(found["all"]) if steps_of(found["all"]).count(step) == 2]
    tap.check(set(range(saved + 1, killed - 1)) <= set(twice) and min(twice) == saved + 1,
              f"readers discard the steps after {saved} of the first file, and no others", twice)
    code = run.train()
    tap.check(code == 0 and len(event_files(run)) == 3, "resumed after its last step", run.log_text())
    check_all(tap, run, "resumed after its last step")


def test_rollback(tap, folder):
    """A run that rolls back to its last checkpoint twice"""
    data = runs.synth(os.path.join(folder, "data"))
    sane = {"train.steps": 8, "checkpoint.every": 4, "samples.every": 1, "guard.max_skips": 3, "guard.max_rollbacks": 2,
            "optim.clip": 0, "optim.lr_schedule": "constant", "model.norm": "none", "model.discriminator_norm": "none",
            "model.blocks": 24}  # so deep that activations overflow with such rates
    run = Run(os.path.join(folder, "run"), data, sane).must_train()
    run.settings.update({"train.steps": 40, "optim.generator_lr": 1, "optim.discriminator_lr": 1})
    code, said = run.train(), run.log_text()
    tap.check(code == 70 and said.count("rolled back to step 8, ") == 2, "a run rolls back twice and fails", said)
    found = read(run)
    behind = [step for step in steps_of(found["all"], "lr/g") if step > 8]
    kept = [step for step in steps_of(found["purged"], "lr/g") if step > 8]
    tap.check(behind.count(9) == 3 and kept and kept == list(range(9, kept[-1] + 1)), "step 9 was written three times, and is shown once",
              f"{behind}, of which {kept} are kept")
    wrong = first_difference(found["purged"]["scalars"], scalars_of(run))
    tap.check(not wrong, "every scalar, each step once", wrong)
    run.settings.update({**runs.TINY, **sane, "optim.generator_lr": 2e-4, "optim.discriminator_lr": 2e-4, "train.steps": 20})
    run.must_train()
    check_all(tap, run, "with a usable learning rate again")


def test_off(tap, folder):
    """metrics.tensorboard: false"""
    data = runs.synth(os.path.join(folder, "data"))
    run = Run(os.path.join(folder, "run"), data, {"train.steps": 2, "samples.every": 2, "metrics.tensorboard": False}).must_train()
    tap.check(run.metrics_line_count() == 2 and os.listdir(run.path("samples")), "metrics and sheets are written")
    tap.check(not os.path.exists(run.path("tensorboard")), "no event files are written")


def test_unread(tap, folder):
    """Without the package"""
    tap.skip("read by the tensorboard package", "pip cannot fetch " + " ".join(REQUIREMENTS))


if __name__ == "__main__":
    runs.main([*([test_run, test_kill, test_rollback] if TENSORBOARD else [test_unread]), test_off])
