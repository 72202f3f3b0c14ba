#!/usr/bin/python3
"""Steps that must be skipped: mismatched clips, gradients that overflow, replicas that diverge. Checks what is skipped, the
checkpoint that the run rolls back to, the skipped batches, and that interrupted runs end with the same bytes."""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys

import h5py
import numpy

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import runs  # noqa: E402
from reference_random import WORD, order_clip  # noqa: E402
from runs import Run  # noqa: E402

SEED = int(os.environ.get("CELFORGE_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
CLIPS, BATCH, STEPS = 240, 4, 60
BAD_STEPS = [40, 41, 42, 43, 44, 50]  # in the order without skipped batches
MAX_SKIPS = 4
# Stable enough that a mismatched clip exceeds the limit.
GUARDED = {"train.steps": STEPS, "checkpoint.every": 8, "guard.max_skips": MAX_SKIPS, "guard.max_deviations": 4,
           "comm.reduce": "reproducible"}

def clips_of_step(step):
    return [order_clip(runs.TINY["run.seed"], step * BATCH + i, CLIPS) for i in range(BATCH)]


# --- Data with mismatched clips ----------------------------------------------------------------------------


def poisoned_data(folder):
    """A dataset whose clips of BAD_STEPS have black sources and white targets, with correct checksums."""
    subprocess.run([runs.CELFORGE, "synth", folder, "--clips", str(CLIPS), "--frames", "2", "--size", "32x32",
                    "--threads", "1"], check=True, capture_output=True, timeout=runs.LIMIT, env=runs.ENVIRONMENT)
    with h5py.File(os.path.join(folder, "shard-00000.h5"), "r+") as shard:
        shape = shard["clips/source"].shape[1:]
        source, target = numpy.zeros(shape, numpy.uint8), numpy.full(shape, 255, numpy.uint8)
        sums = [runs.crc32c(source.tobytes()), runs.crc32c(target.tobytes())]
        for step in BAD_STEPS:
            for clip in clips_of_step(step):
                shard["clips/source"][clip], shard["clips/target"][clip] = source, target
                shard["clips/crc32c"][clip] = sums
    return folder


def state_of(run):
    """The last checkpoint without its manifest, which holds the config."""
    return {name: content for name, content in run.last_checkpoint().items() if name != "manifest.json"}


def guard_of(run):
    return json.loads(run.last_checkpoint()["state.json"])["guard"]


def check_same(tap, run, undisturbed, name):
    differs = runs.difference(state_of(run), state_of(undisturbed))
    tap.check(not differs, name, f"different: {differs}\n{run.log_text()}")


def skipped_steps(said):
    return [int(step) for step in re.findall(r"warning: step (\d+) \(samples .*(?:no network is|is not) updated", said)]


# --- Outliers ----------------------------------------------------------------------------------------------


def check_undisturbed(tap, run):
    said = run.log_text()
    # Steps 41 to 44 exceed the limit: the run rolls back to step 40 and skips batches 40 to 43. Step 41 then reads batch
    # 44 and step 47 batch 50: one step each is skipped, without a rollback.
    tap.check(skipped_steps(said) == [41, 42, 43, 44, 41, 47], "the steps of the bad clips are skipped, no others", said)
    named = re.search(r"step 41 \(samples 160 to 163\): the generator's gradient norm [\d.]+ is above the limit "
                      r"[\d.]+, largest in [a-z0-9.]+weight; loss/g is [\d.]+", said)
    tap.check(bool(named), "samples, network, norm, limit, layer and loss are named", said)
    tap.check(said.count("; the generator is not updated") == 6 and run.metrics()[-1]["skipped/d"] == 0,
              "the discriminators were updated", said)
    tap.check("steps 41 to 44 were skipped, 4 in a row" in said and re.search(
        r"rolled back to step 40, \S+/step-00000040: rollback 1 of 3", said), "after guard.max_skips the run rolls back", said)
    guard = guard_of(run)
    tap.check(guard["skipped_batches"] == [40, 41, 42, 43] and guard["rollbacks"] == 1,
              "and skips these batches from then on", guard)
    lines = run.metrics()
    tap.check([line["step"] for line in lines] == list(range(1, STEPS + 1)), "metrics have each step once", lines)
    tap.check([(line["skipped_batches"], line["rollbacks"], line["skipped/g"]) for line in (lines[39], lines[40], lines[-1])]
              == [(0, 0, 0), (4, 1, 1), (4, 1, 2)], "and count skipped updates, rollbacks and skipped batches", lines[39:42])


def test_outliers(tap, folder):
    """Mismatched clips"""
    moments = random.Random(f"{SEED} outliers")
    data = poisoned_data(os.path.join(folder, "data"))

    def run(name, changes=None):
        return Run(os.path.join(folder, name), data, {**GUARDED, **(changes or {})})

    undisturbed = run("undisturbed").must_train()
    check_undisturbed(tap, undisturbed)
    without = run("without", {"guard.window": 0}).must_train()
    tap.check(not skipped_steps(without.log_text()), "without a window nothing finite is skipped", without.log_text())
    check_same(tap, run("beginning", {"checkpoint.every": 0}).must_train(), undisturbed,
               "without a checkpoint the run rolls back to the initial state, and ends with the same bytes")
    for ranks in (2, 4) if shutil.which("mpirun") else ():
        other = run(f"ranks-{ranks}").must_train(ranks)
        check_same(tap, other, undisturbed, f"{ranks} ranks skip the same steps and batches")
        tap.check(re.search(r"loss/g is [\d.]+ on rank \d \(\S+\), the largest", other.log_text()),
                  f"{ranks} ranks: and the one with the largest loss is named", other.log_text())
    interrupted(tap, run, undisturbed, moments)
    from_another_folder(tap, run, undisturbed)
    first = run("never-back", {"guard.max_rollbacks": 0})
    code, said = first.train(), first.log_text()
    tap.check(code == 70 and re.search(r"celforge: 4 steps in a row were skipped.*after 0 rollbacks.*step 44 \(samples "
                                       r"172 to 175\): the generator's", said),
              "guard.max_rollbacks: 0 ends the run at once, and reports the step", f"exit code {code}\n{said}")
    tap.check(first.checkpoints()[-1] == 40, "with the last checkpoint from before these steps", first.checkpoints())


def interrupted(tap, make, undisturbed, moments):
    """Stopped among the skipped steps: observed and pending outcomes are in the checkpoint."""
    in_a_row = set()
    for number in range(3):
        run = make(f"stopped-{number}", {"checkpoint.keep": 2}).start()
        first = 41 + moments.randrange(2)
        for step in range(first, 45):
            if not run.wait_for(lambda: f"warning: step {step} (" in run.log_text()):
                break
            run.process.send_signal(signal.SIGTERM)
            if run.wait() == 75:
                in_a_row.add(guard_of(run)["bad_steps"])
            run.start()
        assert run.wait() == 0, run.log_text()
        check_same(tap, run, undisturbed, f"stopped at each skipped step from {first} on: the same bytes")
    print(f"# skipped steps in a row that were observed when it was stopped: {sorted(in_a_row)}")
    killed = make("killed")
    killed.start().wait_for(lambda: "rolled back to" in killed.log_text())
    killed.kill()
    tap.check(killed.train() == 0, "killed after the rollback", killed.log_text())
    check_same(tap, killed, undisturbed, "killed after the rollback: the same bytes")


def from_another_folder(tap, make, undisturbed):
    """--resume PATH into an empty folder: the run rolls back to PATH."""
    first = make("first", {"checkpoint.every": 16}).must_train()
    moved = make("moved", {"checkpoint.every": 0})
    code = moved.train(resume=first.checkpoint(32))
    tap.check(code == 0 and re.search(r"rolled back to step 32, \S*first/checkpoints/step-00000032", moved.log_text()),
              "a run resumed from another folder rolls back to that checkpoint", moved.log_text())
    check_same(tap, moved, undisturbed, "and ends with the same bytes")
    tap.check([line["step"] for line in moved.metrics()] == list(range(33, STEPS + 1)),
              "and its metrics start there", moved.metrics()[:2])


# --- Overflow ----------------------------------------------------------------------------------------------


def test_overflow(tap, folder):
    """Learning rates that make the gradients overflow"""
    data = runs.synth(os.path.join(folder, "data"))
    sane = {"train.steps": 40, "checkpoint.every": 4, "guard.max_skips": 3, "guard.max_rollbacks": 2,
            "optim.clip": 0, "optim.lr_schedule": "constant", "model.norm": "none", "model.discriminator_norm": "none",
            "model.blocks": 24}  # so deep that activations overflow with such rates
    wild = {**sane, "optim.generator_lr": 1, "optim.discriminator_lr": 1}
    folder = os.path.join(folder, "run")
    Run(folder, data, {**sane, "train.steps": 8}).must_train()
    for ranks in (1, 2) if shutil.which("mpirun") else (1,):
        run = Run(folder, data, wild)
        code, said = run.train(ranks), run.log_text()
        tap.check(code == 70 and len(re.findall("rolled back to step 8, ", said)) == 2 and len(re.findall("(celforge|error): ", said)) == 1
                  and "3 steps in a row were skipped (guard.max_skips) after 2 rollbacks" in said,
                  f"{ranks} ranks: fails after guard.max_rollbacks, and one rank reports it", f"exit code {code}\n{said}")
        tap.check(re.search(r"the (generator|discriminator)'s gradient is not finite, largest in \S+[a-z]; loss/", said),
                  f"{ranks} ranks: the gradient that is not finite is named, with layer and loss", said)
        tap.check(run.checkpoints()[-1] == 8, f"{ranks} ranks: the last checkpoint is from before", run.checkpoints())
    run = Run(folder, data, sane)
    code = run.train()
    tap.check(code == 0 and "resuming from" in run.log_text() and run.metrics()[-1]["rollbacks"] == 0,
              "a usable learning rate resumes from it", run.log_text())
    steps = [line["step"] for line in run.metrics()]
    tap.check(steps == list(range(1, 41)), "with the metrics of each step once", steps)


# --- Replicas ----------------------------------------------------------------------------------------------


def build(folder):
    """Builds the library that flips a bit when preloaded."""
    library = os.path.join(folder, "flip.so")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "flip.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=runs.LIMIT)
    return library


def flat_bytes(run, network="generator", pattern=r"(?!ema\.)"):
    """Bytes of the flat array of all tensors whose names match; each starts at a multiple of 16 floats."""
    content = run.last_checkpoint()[f"{network}.safetensors"]
    header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
    sizes = [end - begin for name, (begin, end) in
             ((name, tensor["data_offsets"]) for name, tensor in header.items() if name != "__metadata__")
             if re.match(pattern, name)]
    return sum((size + 63) // 64 * 64 for size in sizes)


def flip_a_bit(run, number, size, settings):
    """Flips a bit in the allocation `number` of `size` bytes on rank 2, stops the run, and returns its exit code."""
    run.environment = {**settings, "FLIP_RANK": "2", "FLIP_NUMBER": str(number), "FLIP_BYTES": str(size)}
    run.start(4, "none")
    run.wait_for(lambda: run.metrics_line_count() > 5)
    os.kill(run.ranks()[2], signal.SIGURG)
    run.wait_for(lambda: "flipped" in run.log_text())
    run.process.send_signal(signal.SIGUSR1)
    return run.wait()


def test_replicas(tap, folder):
    """A bit flip in the memory of one rank"""
    if not shutil.which("mpirun"):
        tap.skip("a bit flip in the memory of one rank", "no mpirun")
        return
    data = runs.synth(os.path.join(folder, "data"))
    settings = {"train.steps": 1000000, "checkpoint.every": 0, "optim.pretrain_steps": 0}
    alike = Run(os.path.join(folder, "alike"), data, {**settings, "train.steps": 20})
    alike.environment = {"LD_PRELOAD": build(folder)}
    tap.check(alike.train(4, "none") == 0, "without a bit flip, four ranks stay equal", alike.log_text())
    whole, spectral = flat_bytes(alike), flat_bytes(alike, "discriminator", r".*_(u|v|sigma)$")
    for array, number, size in (("generator.master", 0, whole), ("generator.ema", 1, whole),
                                ("generator.moment2", 4, whole), ("discriminator.spectral.master", 0, spectral)):
        for attempt in range(3):  # no effect if v is overwritten by the power iteration before it is read
            run = Run(os.path.join(folder, f"{array}-{attempt}"), data, settings)
            code = flip_a_bit(run, number, size, alike.environment)
            if code != 75:
                break
        said = run.log_text()
        tap.check(code == 70 and re.search(rf"error: no checkpoint of step \d+: .*{re.escape(array)}\b", said),
                  f"{array}: detected before the checkpoint is written", f"exit code {code}\n{said}")
        named = re.search(rf"Tensor by tensor: .*{re.escape(array)}\.[a-z0-9_.]+[^;]*rank 2", said)
        tap.check(bool(named), f"{array}: tensor and rank are named", said)
        tap.check(not run.checkpoints(), f"{array}: no checkpoint is written", run.checkpoints())


if __name__ == "__main__":
    print(f"# CELFORGE_TEST_SEED={SEED}", flush=True)
    runs.main([test_outliers, test_overflow, test_replicas])
