#!/usr/bin/python3
"""A run that is asked to stop, at any time; a second signal; and a disk that is full. What is on the disk
stays good, and every rank ends with a code that says what happened."""
import ctypes
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import runs  # noqa: E402
from runs import Run  # noqa: E402

SEED = int(os.environ.get("CELFORGE_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
MPIRUN = shutil.which("mpirun")
STEPS = 30


def tell(run, number):
    """To each rank, as a job's step is told."""
    for rank in run.ranks():
        runs.send_signal(rank, number)


# --- Early and late ----------------------------------------------------------------------------------------


def test_early(tap, folder):
    """Stopped before and while training begins"""
    moments = random.Random(f"{SEED} early")
    data = runs.synth(os.path.join(folder, "data"))
    settings = {"train.steps": STEPS, "checkpoint.every": 10, "optim.pretrain_steps": 20}
    undisturbed = Run(os.path.join(folder, "undisturbed"), data, settings).must_train()
    for ranks in (1, 2) if MPIRUN else (1,):
        codes, number = [], 0
        while 75 not in codes and number < 5:  # a machine that stands still lets a run end first
            run = Run(os.path.join(folder, f"early-{ranks}-{number}"), data, settings)
            codes, before_training, resume = stop_early(run, ranks, moments)
            number += 1
        print(f"# {ranks} ranks: exit codes {codes}, {before_training} before training")
        tap.check(set(codes) <= {75, 0} and 75 in codes, f"{ranks} ranks: each ends with 75, or is done",
                  f"{codes}\n{run.log_text()}")
        code = run.train(ranks, resume)
        differs = runs.difference(run.last_checkpoint(), undisturbed.last_checkpoint())
        tap.check(code == 0 and not differs, f"{ranks} ranks: and the end is that of a run left alone",
                  f"exit code {code}, different: {differs}\n{run.log_text()}")
        tap.check(run.metrics() == undisturbed.metrics() or ranks > 1, f"{ranks} ranks: with the same metrics")


def stop_early(run, ranks, moments):
    """Six lives: their exit codes, how many ended before training began, and how to go on."""
    codes, before_training, resume = [], 0, "none"
    for _ in range(6):
        run.start(ranks, resume)
        # Not before the handlers are there: an unprepared process dies of a signal, and nothing is lost.
        run.wait_for(lambda: is_prepared(run, ranks))
        time.sleep(moments.random() * 0.15 * ranks * ranks)
        if run.running():
            tell(run, moments.choice((signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)))
        codes.append(run.wait())
        before_training += "before training began; nothing is lost" in run.log_text()
        resume = "auto" if run.checkpoints() else "none"
    return codes, before_training, resume


def is_prepared(run, ranks):
    """Whether the launcher and all ranks take signals; a child that is still its launcher's copy does not count."""
    pids = run.ranks()
    return len(pids) == ranks and all(is_celforge(pid) for pid in pids) and all(map(catches, [run.process.pid, *pids]))


def is_celforge(pid):
    try:
        return os.path.samefile(f"/proc/{pid}/exe", runs.CELFORGE)
    except OSError:
        return False


def catches(pid):
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            caught = [int(line.split()[1], 16) for line in file if line.startswith("SigCgt")][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return bool(caught >> (signal.SIGUSR1 - 1) & 1)


def test_samples(tap, folder):
    """Stopped while a sample sheet is drawn"""
    data = os.path.join(folder, "data")
    subprocess.run([runs.CELFORGE, "synth", data, "--clips", "6", "--frames", "24", "--size", "192x192", "--threads", "1"],
                   check=True, capture_output=True, timeout=runs.LIMIT, env=runs.ENVIRONMENT)
    settings = {"train.steps": 3, "checkpoint.every": 0, "samples.every": 2, "samples.clips": 6, "data.frames": 2,
                "data.crop_height": 32, "data.crop_width": 32, "model.blocks": 2}
    undisturbed = Run(os.path.join(folder, "undisturbed"), data, settings).must_train()
    sheets = sorted(os.listdir(undisturbed.path("samples")))
    for ranks in (1, 2) if MPIRUN else (1,):
        run, code, took = stop_in_a_sheet(lambda name: Run(os.path.join(folder, name), data, settings), ranks)
        tap.check(code == 75 and run.checkpoints() == [2] and not os.listdir(run.path("samples")),
                  f"{ranks} ranks: the sheet is left, the step is saved ({took:.1f} s)",
                  f"exit code {code}, {run.checkpoints()}\n{run.log_text()}")
        code = run.train(ranks)
        found = sorted(os.listdir(run.path("samples")))
        same = found == sheets and all(open(run.path("samples", name), "rb").read()
                                       == open(undisturbed.path("samples", name), "rb").read() for name in sheets)
        tap.check(code == 0 and same, f"{ranks} ranks: going on draws it, as if nothing had been", f"{found}\n{run.log_text()}")
        differs = runs.difference(run.last_checkpoint(), undisturbed.last_checkpoint())
        tap.check(not differs, f"{ranks} ranks: and ends with the same bytes", differs)


def stop_in_a_sheet(make, ranks):
    """The run, its exit code, seconds. Where nobody looks for as long as a sheet takes, it is drawn: then once more."""
    for number in range(5):
        run = make(f"stopped-{ranks}-{number}").start(ranks)
        run.wait_for(lambda: run.metrics_line_count() >= 2)  # the sheet is next
        time.sleep(0.1 / 2 ** number)
        begin = time.monotonic()
        tell(run, signal.SIGUSR1)
        code = run.wait()
        if not os.listdir(run.path("samples")):
            break
    return run, code, time.monotonic() - begin


# --- Two signals -------------------------------------------------------------------------------------------


def bytes_of(folder):
    """What lies in a folder, file by file."""
    content = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            with open(path, "rb") as file:
                content[os.path.relpath(path, folder)] = file.read()
    return content


def is_quiet(run):
    """Whether two checkpoints are whole, the older ones gone, and nothing else is begun or, by the metrics, due."""
    try:
        names = sorted(os.listdir(run.path("checkpoints")))
        with open(run.path("checkpoints", "latest"), encoding="ascii") as file:
            whole = len(names) == 3 and [file.read().strip()] == names[2:] and ".tmp" not in "".join(names)
    except FileNotFoundError:
        return False
    due = run.metrics_line_count() // run.settings["checkpoint.every"] * run.settings["checkpoint.every"]
    return whole and due in (0, run.checkpoints()[-1])


def test_twice(tap, folder):
    """A second signal"""
    data = runs.synth(os.path.join(folder, "data"))
    settings = {"train.steps": 1000000, "checkpoint.every": 40, "checkpoint.keep": 2}
    for ranks in (1, 2) if MPIRUN else (1,):
        run = Run(os.path.join(folder, f"twice-{ranks}"), data, settings).start(ranks)
        # Nothing is being written or about to be.
        run.stop_ranks_when(lambda: is_quiet(run))
        before = bytes_of(run.path("checkpoints"))
        for number in (signal.SIGUSR1, signal.SIGTERM):  # both are there when it goes on
            tell(run, number)
        begin = time.monotonic()
        run.continue_ranks()
        code = run.wait()
        took = time.monotonic() - begin
        after = bytes_of(run.path("checkpoints"))
        tap.check(code in (128 + signal.SIGTERM, 128 + signal.SIGUSR1) and took < 30,
                  f"{ranks} ranks: ends at once ({took:.2f} s), with 128 + its number", f"exit code {code}\n{run.log_text()}")
        tap.check(before == after, f"{ranks} ranks: what is on the disk is left alone",
                  f"{sorted(before)}\n{sorted(after)}")
        run.settings["train.steps"] = run.checkpoints()[-1] + 3
        tap.check(run.train(ranks) == 0, f"{ranks} ranks: and can be gone on from", run.log_text())


# --- A full disk -------------------------------------------------------------------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)


class SmallDisk:
    """A file system of its own, of a few hundred kilobytes."""

    def __init__(self, folder, kilobytes):
        self.folder = folder
        os.makedirs(folder)
        self.there = LIBC.mount(b"celforge-test", folder.encode(), b"tmpfs", 0, f"size={kilobytes}k".encode()) == 0

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.there:
            LIBC.umount2(self.folder.encode(), 2)  # MNT_DETACH

    def fill(self, spare=0):
        """Until nothing, or `spare` bytes, are left."""
        with open(os.path.join(self.folder, "filler"), "ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
            if spare:
                file.truncate(max(0, file.seek(0, os.SEEK_END) - spare))


def test_full_disk(tap, folder):
    """A disk that becomes full"""
    data = runs.synth(os.path.join(folder, "data"))
    every = 40
    settings = {"checkpoint.every": every, "checkpoint.keep": 2, "train.steps": 1000000}
    for ranks in (1, 2) if MPIRUN else (1,):
        for what, words, changes, spare in (
                ("metrics", "(metrics.jsonl|tensorboard/events).*: cannot write", {}, 0),
                ("checkpoint", "checkpoint of step", {"metrics.every": 1000000}, 20000)):
            with SmallDisk(os.path.join(folder, f"{what}-{ranks}"), 4096) as disk:
                if not disk.there:
                    tap.skip(f"{ranks} ranks: full at the {what}", "cannot mount a small file system")
                    continue
                run = Run(os.path.join(disk.folder, "run"), data, {**settings, **changes})
                run.log = os.path.join(folder, f"{what}-{ranks}.log")
                run.config = os.path.join(folder, f"{what}-{ranks}.yaml")
                run.start(ranks)
                # Neither is a checkpoint about to be removed, nor is the next one before more metrics than fit.
                run.stop_ranks_when(lambda: is_quiet(run) and run.metrics_line_count() % every < every // 2)
                begin = time.monotonic()
                disk.fill(spare)
                run.continue_ranks()
                code, said = run.wait(), run.log_text()
                took = time.monotonic() - begin
                tap.check(code == 74 and len(re.findall("(celforge|error): .*No space left", said)) == 1 and re.search(words, said)
                          and took < 60,
                          f"{ranks} ranks: full at the {what}: every rank ends, one says why ({took:.1f} s)",
                          f"exit code {code}\n{said}")
                os.unlink(os.path.join(disk.folder, "filler"))
                steps = run.checkpoints()
                run.settings["train.steps"] = steps[-1] + 2
                code = run.train(ranks)
                tap.check(code == 0 and f"at step {steps[-1]}" in run.log_text()
                          and "trying the previous checkpoint" not in run.log_text(),
                          f"{ranks} ranks: full at the {what}: the last checkpoint is good", run.log_text())


if __name__ == "__main__":
    print(f"# CELFORGE_TEST_SEED={SEED}", flush=True)
    runs.main([test_early, test_samples, test_twice, test_full_disk])
