#!/usr/bin/python3
"""Signals at any time, a second signal, and a full disk: the checkpoints on disk stay valid, and every rank exits with the
right code."""
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


def signal_ranks(run, number):
    """Sends a signal to each rank, as Slurm does to a job step."""
    for rank in run.ranks():
        runs.send_signal(rank, number)


# --- Early and late ----------------------------------------------------------------------------------------


def test_early(tap, folder):
    """Stopped before and while training starts"""
    moments = random.Random(f"{SEED} early")
    data = runs.synth(os.path.join(folder, "data"))
    settings = {"train.steps": STEPS, "checkpoint.every": 10, "optim.pretrain_steps": 20}
    undisturbed = Run(os.path.join(folder, "undisturbed"), data, settings).must_train()
    for ranks in (1, 2) if MPIRUN else (1,):
        codes, number = [], 0
        while 75 not in codes and number < 5:  # on a busy machine a run may end first
            run = Run(os.path.join(folder, f"early-{ranks}-{number}"), data, settings)
            codes, before_training, resume = stop_early(run, ranks, moments)
            number += 1
        print(f"# {ranks} ranks: exit codes {codes}, {before_training} before training")
        tap.check(set(codes) <= {75, 0} and 75 in codes, f"{ranks} ranks: each exits with 75, or is done",
                  f"{codes}\n{run.log_text()}")
        code = run.train(ranks, resume)
        differs = runs.difference(run.last_checkpoint(), undisturbed.last_checkpoint())
        tap.check(code == 0 and not differs, f"{ranks} ranks: and the end is that of an uninterrupted run",
                  f"exit code {code}, different: {differs}\n{run.log_text()}")
        tap.check(run.metrics() == undisturbed.metrics() or ranks > 1, f"{ranks} ranks: with the same metrics")


def stop_early(run, ranks, moments):
    """Stops a run six times; returns the exit codes, how many came before training started, and the next --resume."""
    codes, before_training, resume = [], 0, "none"
    for _ in range(6):
        run.start(ranks, resume)
        # Waits for the signal handlers: without them a signal kills the process, which is harmless but not tested here.
        run.wait_for(lambda: is_prepared(run, ranks))
        time.sleep(moments.random() * 0.15 * ranks * ranks)
        if run.running():
            signal_ranks(run, moments.choice((signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)))
        codes.append(run.wait())
        before_training += "before training started; nothing is lost" in run.log_text()
        resume = "auto" if run.checkpoints() else "none"
    return codes, before_training, resume


def is_prepared(run, ranks):
    """Whether the launcher and all ranks handle signals. A child that has not called exec yet does not count."""
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
    """Stopped while a sample sheet is written"""
    data = os.path.join(folder, "data")
    subprocess.run([runs.CELFORGE, "synth", data, "--clips", "6", "--frames", "24", "--size", "192x192", "--threads", "1"],
                   check=True, capture_output=True, timeout=runs.LIMIT, env=runs.ENVIRONMENT)
    settings = {"train.steps": 3, "checkpoint.every": 0, "samples.every": 2, "samples.clips": 6, "data.frames": 2,
                "data.crop_height": 32, "data.crop_width": 32, "model.blocks": 2}
    undisturbed = Run(os.path.join(folder, "undisturbed"), data, settings).must_train()
    sheets = sorted(os.listdir(undisturbed.path("samples")))
    for ranks in (1, 2) if MPIRUN else (1,):
        run, code, took = stop_during_sheet(lambda name: Run(os.path.join(folder, name), data, settings), ranks)
        tap.check(code == 75 and run.checkpoints() == [2] and not os.listdir(run.path("samples")),
                  f"{ranks} ranks: the sheet is not written, the checkpoint is ({took:.1f} s)",
                  f"exit code {code}, {run.checkpoints()}\n{run.log_text()}")
        code = run.train(ranks)
        found = sorted(os.listdir(run.path("samples")))
        same = found == sheets and all(open(run.path("samples", name), "rb").read()
                                       == open(undisturbed.path("samples", name), "rb").read() for name in sheets)
        tap.check(code == 0 and same, f"{ranks} ranks: the resumed run writes the same sheet", f"{found}\n{run.log_text()}")
        differs = runs.difference(run.last_checkpoint(), undisturbed.last_checkpoint())
        tap.check(not differs, f"{ranks} ranks: and ends with the same bytes", differs)


def stop_during_sheet(make, ranks):
    """Returns the run, its exit code and the seconds until its end. Repeats if the sheet was finished before the signal."""
    for number in range(5):
        run = make(f"stopped-{ranks}-{number}").start(ranks)
        run.wait_for(lambda: run.metrics_line_count() >= 2)  # the sheet is next
        time.sleep(0.1 / 2 ** number)
        begin = time.monotonic()
        signal_ranks(run, signal.SIGUSR1)
        code = run.wait()
        if not os.listdir(run.path("samples")):
            break
    return run, code, time.monotonic() - begin


# --- Two signals -------------------------------------------------------------------------------------------


def contents_of(folder):
    """The contents of all files in a folder."""
    content = {}
    for path_of_folder, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(path_of_folder, name)
            with open(path, "rb") as file:
                content[os.path.relpath(path, folder)] = file.read()
    return content


def is_quiet(run):
    """Whether there are exactly two complete checkpoints, and no write is in progress or due."""
    try:
        names = sorted(os.listdir(run.path("checkpoints")))
        with open(run.path("checkpoints", "latest"), encoding="ascii") as file:
            complete = len(names) == 3 and [file.read().strip()] == names[2:] and ".tmp" not in "".join(names)
    except FileNotFoundError:
        return False
    due = run.metrics_line_count() // run.settings["checkpoint.every"] * run.settings["checkpoint.every"]
    return complete and due in (0, run.checkpoints()[-1])


def test_twice(tap, folder):
    """A second signal"""
    data = runs.synth(os.path.join(folder, "data"))
    settings = {"train.steps": 1000000, "checkpoint.every": 40, "checkpoint.keep": 2}
    for ranks in (1, 2) if MPIRUN else (1,):
        run = Run(os.path.join(folder, f"twice-{ranks}"), data, settings).start(ranks)
        # No write is in progress or due.
        run.stop_ranks_when(lambda: is_quiet(run))
        before = contents_of(run.path("checkpoints"))
        for number in (signal.SIGUSR1, signal.SIGTERM):  # both are pending when the run continues
            signal_ranks(run, number)
        begin = time.monotonic()
        run.continue_ranks()
        code = run.wait()
        took = time.monotonic() - begin
        after = contents_of(run.path("checkpoints"))
        tap.check(code in (128 + signal.SIGTERM, 128 + signal.SIGUSR1) and took < 30,
                  f"{ranks} ranks: exits at once ({took:.2f} s) with 128 + signal number", f"exit code {code}\n{run.log_text()}")
        tap.check(before == after, f"{ranks} ranks: the files are left unchanged",
                  f"{sorted(before)}\n{sorted(after)}")
        run.settings["train.steps"] = run.checkpoints()[-1] + 3
        tap.check(run.train(ranks) == 0, f"{ranks} ranks: and can be resumed", run.log_text())


# --- A full disk -------------------------------------------------------------------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)


class SmallDisk:
    """A small tmpfs."""

    def __init__(self, folder, kilobytes):
        self.folder = folder
        os.makedirs(folder)
        self.is_mounted = LIBC.mount(b"celforge-test", folder.encode(), b"tmpfs", 0, f"size={kilobytes}k".encode()) == 0

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.is_mounted:
            LIBC.umount2(self.folder.encode(), 2)  # MNT_DETACH

    def fill(self, spare=0):
        """Fills the file system until `spare` bytes are left."""
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
                if not disk.is_mounted:
                    tap.skip(f"{ranks} ranks: full at the {what}", "cannot mount a small file system")
                    continue
                run = Run(os.path.join(disk.folder, "run"), data, {**settings, **changes})
                run.log = os.path.join(folder, f"{what}-{ranks}.log")
                run.config = os.path.join(folder, f"{what}-{ranks}.yaml")
                run.start(ranks)
                # No checkpoint is about to be removed, and metrics fill the disk before the next checkpoint.
                run.stop_ranks_when(lambda: is_quiet(run) and run.metrics_line_count() % every < every // 2)
                begin = time.monotonic()
                disk.fill(spare)
                run.continue_ranks()
                code, said = run.wait(), run.log_text()
                took = time.monotonic() - begin
                tap.check(code == 74 and len(re.findall("(celforge|error): .*No space left", said)) == 1 and re.search(words, said)
                          and took < 60,
                          f"{ranks} ranks: full at the {what}: every rank exits, one reports why ({took:.1f} s)",
                          f"exit code {code}\n{said}")
                os.unlink(os.path.join(disk.folder, "filler"))
                steps = run.checkpoints()
                run.settings["train.steps"] = steps[-1] + 2
                code = run.train(ranks)
                tap.check(code == 0 and f"at step {steps[-1]}" in run.log_text()
                          and "trying the previous checkpoint" not in run.log_text(),
                          f"{ranks} ranks: full at the {what}: the last checkpoint is valid", run.log_text())


if __name__ == "__main__":
    print(f"# CELFORGE_TEST_SEED={SEED}", flush=True)
    runs.main([test_early, test_samples, test_twice, test_full_disk])
