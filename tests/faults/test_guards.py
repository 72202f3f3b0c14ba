#!/usr/bin/python3
"""Steps that must not be learned from: clips that are no pair, gradients that overflow, replicas that drift
apart. What is skipped, what the run goes back to, what it leaves out, and that all of it ends with the
same bytes whoever interrupts it."""
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
from draws import WORD, order_clip  # noqa: E402
from runs import Run  # noqa: E402

SEED = int(os.environ.get("CELFORGE_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
CLIPS, BATCH, STEPS = 240, 4, 60
BAD_STEPS = [40, 41, 42, 43, 44, 50]  # of the plain order
MAX_SKIPS = 4
# Kept steady enough that a clip which is no pair stands out.
GUARDED = {"train.steps": STEPS, "checkpoint.every": 8, "guard.max_skips": MAX_SKIPS, "guard.max_deviations": 4,
           "comm.reduce": "reproducible"}

def clips_of_step(step):
    return [order_clip(runs.TINY["run.seed"], step * BATCH + i, CLIPS) for i in range(BATCH)]


# --- Data that holds clips which are no pair ---------------------------------------------------------------


def poisoned_data(folder):
    """Black films with white cartoons, checksums and all, in every clip that the BAD_STEPS read."""
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
    """What a run learned and remembers: all of its last checkpoint but the manifest, which has the config."""
    return {name: content for name, content in run.last_checkpoint().items() if name != "manifest.json"}


def guard_of(run):
    return json.loads(run.last_checkpoint()["state.json"])["guard"]


def check_same(tap, run, undisturbed, name):
    differs = runs.difference(state_of(run), state_of(undisturbed))
    tap.check(not differs, name, f"different: {differs}\n{run.said()}")


def skipped_steps(said):
    return [int(step) for step in re.findall(r"warning: step (\d+) \(samples .*(?:nothing is learned|learns nothing) from it", said)]


# --- Outliers ----------------------------------------------------------------------------------------------


def check_undisturbed(tap, run):
    said = run.said()
    # Steps 41 to 44 stand out: back to 40, whose batches 40 to 43 go. Batch 44 is step 41's then, batch 50
    # is step 47's: one bad step each, which is skipped and no more.
    tap.check(skipped_steps(said) == [41, 42, 43, 44, 41, 47], "the steps of the bad clips are skipped, no others", said)
    named = re.search(r"step 41 \(samples 160 to 163\): the generator's gradient norm [\d.]+ is above the limit "
                      r"[\d.]+, worst in [a-z0-9.]+weight; loss/g is [\d.]+", said)
    tap.check(bool(named), "samples, network, norm, limit, layer and loss are named", said)
    tap.check(said.count("; the generator learns nothing from it") == 6 and run.metrics()[-1]["skipped/d"] == 0,
              "and that the discriminators were updated", said)
    tap.check("steps 41 to 44 were skipped, 4 in a row" in said and re.search(
        r"went back to step 40, \S+/step-00000040: 1 of 3 times", said), "after guard.max_skips the run goes back", said)
    guard = guard_of(run)
    tap.check(guard["skipped_batches"] == [40, 41, 42, 43] and guard["rollbacks"] == 1,
              "and leaves the batches at fault out", guard)
    lines = run.metrics()
    tap.check([line["step"] for line in lines] == list(range(1, STEPS + 1)), "metrics have each step once", lines)
    tap.check([(line["skipped_batches"], line["rollbacks"], line["skipped/g"]) for line in (lines[39], lines[40], lines[-1])]
              == [(0, 0, 0), (4, 1, 1), (4, 1, 2)], "and say what was skipped and left out", lines[39:42])


def test_outliers(tap, folder):
    """Clips that are no pair"""
    moments = random.Random(f"{SEED} outliers")
    data = poisoned_data(os.path.join(folder, "data"))

    def run(name, changes=None):
        return Run(os.path.join(folder, name), data, {**GUARDED, **(changes or {})})

    undisturbed = run("undisturbed").must_train()
    check_undisturbed(tap, undisturbed)
    without = run("without", {"guard.window": 0}).must_train()
    tap.check(not skipped_steps(without.said()), "without a window nothing finite is skipped", without.said())
    check_same(tap, run("beginning", {"checkpoint.every": 0}).must_train(), undisturbed,
               "without a checkpoint the run goes back to the beginning, and ends with the same bytes")
    for ranks in (2, 4) if shutil.which("mpirun") else ():
        other = run(f"ranks-{ranks}").must_train(ranks)
        check_same(tap, other, undisturbed, f"{ranks} ranks skip and leave out the same")
        tap.check(re.search(r"loss/g is [\d.]+ on rank \d \(\S+\), the largest", other.said()),
                  f"{ranks} ranks: and the one with the largest loss is named", other.said())
    interrupted(tap, run, undisturbed, moments)
    from_another_folder(tap, run, undisturbed)
    first = run("never-back", {"guard.max_rollbacks": 0})
    code, said = first.train(), first.said()
    tap.check(code == 70 and re.search(r"celforge: 4 steps in a row were skipped.*gone back 0 times.*step 44 \(samples "
                                       r"172 to 175\): the generator's", said),
              "guard.max_rollbacks: 0 ends the run at once, and says where", f"exit code {code}\n{said}")
    tap.check(first.checkpoints()[-1] == 40, "with the checkpoint from before", first.checkpoints())


def interrupted(tap, make, undisturbed, moments):
    """Stopped among the bad steps, with what is known and what is pending in the checkpoint."""
    in_a_row = set()
    for life in range(3):
        run = make(f"stopped-{life}", {"checkpoint.keep": 2}).start()
        first = 41 + moments.randrange(2)
        for step in range(first, 45):
            if not run.wait_for(lambda: f"warning: step {step} (" in run.said()):
                break
            run.process.send_signal(signal.SIGTERM)
            if run.wait() == 75:
                in_a_row.add(guard_of(run)["bad_steps"])
            run.start()
        assert run.wait() == 0, run.said()
        check_same(tap, run, undisturbed, f"stopped from bad step {first} on, again and again: the same bytes")
    print(f"# stopped with so many bad steps in a row observed: {sorted(in_a_row)}")
    killed = make("killed")
    killed.start().wait_for(lambda: "went back to" in killed.said())
    killed.kill()
    tap.check(killed.train() == 0, "killed behind the way back", killed.said())
    check_same(tap, killed, undisturbed, "killed behind the way back: the same bytes")


def from_another_folder(tap, make, undisturbed):
    """--resume PATH into an empty folder, whose run goes back to that PATH."""
    first = make("first", {"checkpoint.every": 16}).must_train()
    moved = make("moved", {"checkpoint.every": 0})
    code = moved.train(resume=first.checkpoint(32))
    tap.check(code == 0 and re.search(r"went back to step 32, \S*first/checkpoints/step-00000032", moved.said()),
              "a run that came from another folder goes back to there", moved.said())
    check_same(tap, moved, undisturbed, "and ends with the same bytes")
    tap.check([line["step"] for line in moved.metrics()] == list(range(33, STEPS + 1)),
              "and its metrics begin where it did", moved.metrics()[:2])


# --- Overflow ----------------------------------------------------------------------------------------------


def test_overflow(tap, folder):
    """Rates that no network survives"""
    data = runs.synth(os.path.join(folder, "data"))
    sane = {"train.steps": 40, "checkpoint.every": 4, "guard.max_skips": 3, "guard.max_rollbacks": 2,
            "optim.clip": 0, "optim.lr_schedule": "constant", "model.norm": "none", "model.discriminator_norm": "none"}
    wild = {**sane, "optim.generator_lr": 1, "optim.discriminator_lr": 1}
    folder = os.path.join(folder, "run")
    Run(folder, data, {**sane, "train.steps": 8}).must_train()
    for ranks in (1, 2) if shutil.which("mpirun") else (1,):
        run = Run(folder, data, wild)
        code, said = run.train(ranks), run.said()
        tap.check(code == 70 and len(re.findall("went back to step 8, ", said)) == 2 and len(re.findall("(celforge|error): ", said)) == 1
                  and "3 steps in a row were skipped (guard.max_skips), after the run had gone back 2 times" in said,
                  f"{ranks} ranks: given up after guard.max_rollbacks, and one rank says so", f"exit code {code}\n{said}")
        tap.check(re.search(r"the (generator|discriminator)'s gradient is not finite, worst in \S+[a-z]; loss/", said),
                  f"{ranks} ranks: what is not finite is named, with layer and loss", said)
        tap.check(run.checkpoints()[-1] == 8, f"{ranks} ranks: the good checkpoint is the last one", run.checkpoints())
    run = Run(folder, data, sane)
    code = run.train()
    tap.check(code == 0 and "resuming from" in run.said() and run.metrics()[-1]["rollbacks"] == 0,
              "from which a sane rate goes on", run.said())
    steps = [line["step"] for line in run.metrics()]
    tap.check(steps == list(range(1, 41)), "with each step's metrics once", steps)


# --- Replicas ----------------------------------------------------------------------------------------------


def build(folder):
    """The library that flips a bit, to be preloaded."""
    library = os.path.join(folder, "flip.so")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "flip.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=runs.LIMIT)
    return library


def flat_bytes(run, network="generator", pattern=r"(?!ema\.)"):
    """The size of a flat array of the network's tensors whose names match: each begins at a multiple of 16 floats."""
    content = run.last_checkpoint()[f"{network}.safetensors"]
    header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
    sizes = [end - begin for name, (begin, end) in
             ((name, tensor["data_offsets"]) for name, tensor in header.items() if name != "__metadata__")
             if re.match(pattern, name)]
    return sum((size + 63) // 64 * 64 for size in sizes)


def flip_a_bit(run, number, size, settings):
    """Of rank 2's block `number` of so many bytes, in a run that is then asked to stop; its exit code."""
    run.environment = {**settings, "FLIP_RANK": "2", "FLIP_NUMBER": str(number), "FLIP_BYTES": str(size)}
    run.start(4, "none")
    run.wait_for(lambda: run.lines() > 5)
    os.kill(run.ranks()[2], signal.SIGURG)
    run.wait_for(lambda: "flipped" in run.said())
    run.process.send_signal(signal.SIGUSR1)
    return run.wait()


def test_replicas(tap, folder):
    """A bit that flips in one rank's memory"""
    if not shutil.which("mpirun"):
        tap.skip("a bit that flips in one rank's memory", "no mpirun")
        return
    data = runs.synth(os.path.join(folder, "data"))
    settings = {"train.steps": 1000000, "checkpoint.every": 0, "optim.pretrain_steps": 0}
    alike = Run(os.path.join(folder, "alike"), data, {**settings, "train.steps": 20})
    alike.environment = {"LD_PRELOAD": build(folder)}
    tap.check(alike.train(4, "none") == 0, "four ranks that stay alike", alike.said())
    whole, spectral = flat_bytes(alike), flat_bytes(alike, "discriminator", r".*_(u|v|sigma)$")
    for array, number, size in (("generator.master", 0, whole), ("generator.ema", 1, whole),
                                ("generator.moment2", 4, whole), ("discriminator.spectral.master", 0, spectral)):
        for attempt in range(3):  # v is not read between the gradient and the iteration that makes it anew
            run = Run(os.path.join(folder, f"{array}-{attempt}"), data, settings)
            code = flip_a_bit(run, number, size, alike.environment)
            if code != 75:
                break
        said = run.said()
        tap.check(code == 70 and re.search(rf"error: no checkpoint of step \d+: .*{re.escape(array)}\b", said),
                  f"{array}: found before the checkpoint is written", f"exit code {code}\n{said}")
        named = re.search(rf"Tensor by tensor: .*{re.escape(array)}\.[a-z0-9_.]+[^;]*rank 2", said)
        tap.check(bool(named), f"{array}: with the tensor and the rank", said)
        tap.check(not run.checkpoints(), f"{array}: and nothing is written", run.checkpoints())


if __name__ == "__main__":
    print(f"# CELFORGE_TEST_SEED={SEED}", flush=True)
    runs.main([test_outliers, test_overflow, test_replicas])
