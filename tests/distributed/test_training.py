#!/usr/bin/python3
"""Training on several ranks: the weights do not depend on the number of ranks, and two equal runs leave equal
bytes."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import runs  # noqa: E402

STEPS = 20
LONG = 50


def test_world_sizes(tap, folder):
    """comm.reduce: fast: the same losses on 1, 2 and 4 ranks, the same bytes twice"""
    data = runs.synth(os.path.join(folder, "data"))

    def run(name, ranks):
        settings = {"train.steps": STEPS, "checkpoint.every": 10}
        return runs.Run(os.path.join(folder, name), data, settings).must_train(ranks, "none")

    one, two, four = run("one", 1), run("two", 2), run("four", 4)
    tap.check([record["step"] for record in one.metrics()] == list(range(1, STEPS + 1)),
              f"metrics of {STEPS} steps", one.metrics())
    first, last = one.metrics()[0], one.metrics()[-1]
    tap.check("loss/d" not in first and last["loss/d"] > 0 and first["loss/g"] != last["loss/g"],
              "pretraining, then the adversarial loss, and losses that change", f"{first}\n{last}")
    for name, other in (("2", two), ("4", four)):
        runs.check_same_losses(tap, one.metrics(), other.metrics(), f"{name} ranks have the losses of one")
    again = run("again", 2)
    differs = runs.difference(two.last_checkpoint(), again.last_checkpoint())
    tap.check(len(again.last_checkpoint()) == 6 and not differs, "two runs on 2 ranks leave the same bytes",
              f"different: {differs}")
    tap.check(two.metrics() == again.metrics(), "two runs on 2 ranks write the same metrics")


def make_reproducible(folder, data, name, threads, precision):
    settings = {"train.steps": LONG, "checkpoint.every": 10, "comm.reduce": "reproducible",
                "train.precision": precision, "optim.lr_schedule": "constant"}  # so that nothing depends on train.steps
    if precision == "bf16":
        settings["loss.adversarial"] = "wgan-gp"
    run = runs.Run(os.path.join(folder, f"{precision}-{name}"), data, settings)
    run.environment = {"OMP_NUM_THREADS": threads}
    return run


def test_reproducible(tap, folder):
    """comm.reduce: reproducible, with the default number of threads"""
    data = runs.synth(os.path.join(folder, "data"))
    one = make_reproducible(folder, data, "one", "2", "f32").must_train(1, "none")
    said = one.log_text()
    tap.check("training on cpu: 1 thread," in said and "one compute thread per rank; set train.threads" in said,
              "each rank computes with one thread and logs it", said)
    for ranks, threads in ((2, "1"), (4, "3")):
        other = make_reproducible(folder, data, f"ranks-{ranks}", threads, "f32").must_train(ranks, "none")
        differs = runs.difference(one.last_checkpoint(), other.last_checkpoint())
        tap.check(not differs,
                  f"{ranks} ranks, OMP_NUM_THREADS={threads}: the bytes of one rank after {LONG} steps", differs)
    moved = make_reproducible(folder, data, "moved", "1", "f32")
    for ranks, steps in ((4, 7), (1, 13), (2, LONG)):
        moved.settings["train.steps"] = steps
        moved.must_train(ranks)
    differs = runs.difference({**one.last_checkpoint(), "manifest.json": b""},
                              {**moved.last_checkpoint(), "manifest.json": b""})
    tap.check(not differs, "4 ranks, then 1, then 2: the bytes of an uninterrupted run on one rank", differs)
    three = make_reproducible(folder, data, "three", "1", "f32")
    three.settings["train.global_batch"] = 12
    code = three.train(3, "none")
    tap.check(code == 64 and "power of two" in three.log_text(), "3 ranks are rejected: not a power of two",
              f"exit code {code}\n{three.log_text()}")


def test_reproducible_unpaired(tap, folder):
    """comm.reduce: reproducible, with unpaired data and adaptive augmentation"""
    data, targets = runs.synth(os.path.join(folder, "data")), runs.synth(os.path.join(folder, "targets"), 2)
    settings = {**runs.UNPAIRED, "data.target_path": targets, "train.steps": STEPS, "checkpoint.every": 10,
                "comm.reduce": "reproducible"}

    def run(ranks):
        return runs.Run(os.path.join(folder, f"ranks-{ranks}"), data, settings).must_train(ranks, "none")

    one = run(1)
    probabilities = {record["augment/probability"] for record in one.metrics()}
    tap.check(len(probabilities) > 2, f"unpaired: {STEPS} steps whose probability of augmentation moves", probabilities)
    for ranks in (2, 4):
        other = run(ranks)
        differs = runs.difference(one.last_checkpoint(), other.last_checkpoint())
        tap.check(not differs, f"unpaired on {ranks} ranks: the bytes of one rank", differs)


def test_reproducible_bf16(tap, folder):
    """comm.reduce: reproducible, in bf16"""
    data = runs.synth(os.path.join(folder, "data"))
    one = make_reproducible(folder, data, "one", "1", "bf16")
    code = one.train(1, "none")
    if code == 64 and "bf16 does not run on this device" in one.log_text():
        tap.skip("bf16 on 1, 2 and 4 ranks", "this processor has no bf16")
        return
    tap.check(code == 0, f"{LONG} steps in bf16", one.log_text())
    for ranks in (2, 4):
        other = make_reproducible(folder, data, f"ranks-{ranks}", "1", "bf16").must_train(ranks, "none")
        differs = runs.difference(one.last_checkpoint(), other.last_checkpoint())
        tap.check(not differs, f"bf16 on {ranks} ranks: the bytes of one rank after {LONG} steps", differs)


def test_reproducible_recurrent(tap, folder):
    """comm.reduce: reproducible, in bf16 with a GRU: one micro-batch for each of 4 ranks, several for fewer"""
    data = runs.synth(os.path.join(folder, "data"))
    settings = {"train.steps": 6, "comm.reduce": "reproducible", "train.precision": "bf16", "model.temporal": "convgru"}
    one = runs.Run(os.path.join(folder, "one"), data, settings)
    code = one.train(1, "none")
    if code == 64 and "bf16 does not run on this device" in one.log_text():
        tap.skip("bf16 with a GRU on 1, 2 and 4 ranks", "this processor has no bf16")
        return
    tap.check(code == 0, "6 steps in bf16 with a GRU", one.log_text())
    for ranks in (2, 4):
        other = runs.Run(os.path.join(folder, f"ranks-{ranks}"), data, settings).must_train(ranks, "none")
        differs = runs.difference(one.last_checkpoint(), other.last_checkpoint())
        tap.check(not differs, f"bf16 with a GRU on {ranks} ranks: the bytes of one rank", differs)


def slow_down(run, pid, share, until):
    """Suspends the process for a share of the time. Returns the metrics records written meanwhile."""
    begin, deadline = run.metrics_line_count(), time.monotonic() + 60
    while run.running() and not until(begin) and time.monotonic() < deadline:
        for number, seconds in ((signal.SIGSTOP, share), (signal.SIGCONT, 1 - share)):
            runs.send_signal(pid, number)
            time.sleep(0.05 * seconds)
    end = run.metrics_line_count()
    with open(run.path("metrics.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file.readlines()[begin + 1:end]]


def summarise(records):
    """For records written while rank 1 was slow: how many name it, the mean exposed share, whether shares add up."""
    named = sum(record["straggler/rank"] == 1 for record in records)
    waited = sum(record["time/comm_exposed"] for record in records) / max(1, len(records))
    within = all(0 < record["straggler/seconds"] <= record["step_seconds"] * 1.01
                 and abs(record["time/compute"] + record["time/data"] + record["time/comm_exposed"] - 1) < 0.1
                 for record in records)
    return named, waited, within


def shows_straggler(records):
    named, waited, within = summarise(records)
    return records and named > 0.8 * len(records) and 0.2 < waited < 0.6 and within


def test_straggler(tap, folder):
    """A rank that is slower than the others"""
    data = runs.synth(os.path.join(folder, "data"))
    run = runs.Run(os.path.join(folder, "run"), data, {"train.steps": 1000000, "metrics.every": 10})
    run.start(2, "none")
    run.wait_for(lambda: run.metrics_line_count() > 1)
    warned, records = "warning: rank 1 on", []
    # On a busy machine the slowdown may come late, and the other rank may be slow as well: retried.
    for _ in range(5):
        if not shows_straggler(records):
            records = slow_down(run, run.ranks()[1], 0.8, lambda begin: run.metrics_line_count() > begin + 12)
    for _ in range(2):
        slow_down(run, run.ranks()[1], 0.8, lambda _: warned in run.log_text())
    run.process.send_signal(signal.SIGUSR1)
    code, said = run.wait(), run.log_text()
    named, waited, within = summarise(records)
    tap.check(records and named > 0.8 * len(records),
              "the metrics name the straggler", f"{named} of {len(records)} lines")
    tap.check(0.2 < waited < 0.6, "the other rank waits", f"{waited:.0%} of the time of both")
    tap.check(within, "the shares of time add up", records[:2])
    # On a busy machine there may be a warning about the other rank as well.
    tap.check(len(re.findall(r"warning: straggler: rank 1 on \S+: in the last", said)) == 1,
              "one warning names rank and host", said)
    tap.check(code == 75, "the run continues until it is stopped", code)


def test_deadlines(tap, folder):
    """A slow sample sheet, and a rank without progress"""
    data = os.path.join(folder, "data")
    subprocess.run([runs.CELFORGE, "synth", data, "--clips", "6", "--frames", "40", "--size", "160x160", "--threads",
                    "1"], check=True, capture_output=True, timeout=runs.LIMIT, env=runs.ENVIRONMENT)
    settings = {"train.steps": 1, "samples.every": 1, "samples.clips": 6, "data.frames": 2, "data.crop_height": 32,
                "data.crop_width": 32, "comm.timeout": 1, "comm.heartbeat": 0.2}
    run = runs.Run(os.path.join(folder, "sheet"), data, settings).start(2, "none")
    run.wait_for(lambda: run.metrics_line_count() == 1)
    begin = time.monotonic()
    code = run.wait()
    took = time.monotonic() - begin
    tap.check(code == 0 and os.listdir(run.path("samples")),
              f"writing a sample sheet ({took:.1f} s) may take longer than comm.timeout (1 s)", f"exit code {code}\n{run.log_text()}")
    for stopped in (0, 1):
        run = runs.Run(os.path.join(folder, f"stopped-{stopped}"), data,
                       {**settings, "train.steps": 1000000, "samples.every": 0, "comm.timeout": 4}).start(2, "none")
        run.wait_for(lambda: run.metrics_line_count() >= 20)
        os.kill(run.ranks()[stopped], signal.SIGSTOP)
        begin = time.monotonic()
        code, said = run.wait(), run.log_text()
        took = time.monotonic() - begin
        tap.check(code == 70 and took < 60 and f"behind: rank {stopped} (host" in said,
                  f"a suspended rank {stopped} is named, and the run ends ({took:.1f} s)", f"exit code {code}\n{said}")


def test_threads(tap, folder):
    """train.threads: 0: the ranks share the processors they may run on"""
    data, own = runs.synth(os.path.join(folder, "data")), os.sched_getaffinity(0)
    if len(own) < 2:
        tap.skip("threads of a rank", "one processor")
        return
    for name, ranks, cores in (("all", 1, own), ("bound", 1, {min(own)}), ("shared", 2, own), ("both-bound", 2, {min(own)})):
        run = runs.Run(os.path.join(folder, name), data, {"train.steps": 1, "train.threads": 0})
        run.unset_variables = ("OMP_NUM_THREADS",)
        os.sched_setaffinity(0, cores)
        try:
            run.must_train(ranks, "none")
        finally:
            os.sched_setaffinity(0, own)
        wanted = max(1, len(cores) // ranks)
        tap.check(f"training on cpu: {wanted} thread{'s' if wanted > 1 else ''}," in run.log_text(),
                  f"{name}: {ranks} rank{'s' if ranks > 1 else ''} on {len(cores)} of {len(own)} processors", run.log_text())


def test_rejected_world_size(tap, folder):
    """A number of ranks that does not divide the global batch"""
    data = runs.synth(os.path.join(folder, "data"))
    run = runs.Run(os.path.join(folder, "three"), data, {"train.steps": 2})
    code = run.train(3, "none")
    tap.check(code == 64 and "cannot be split over 3 ranks; possible world sizes: 1, 2, 4" in run.log_text(),
              "3 ranks are rejected, and the error lists possible numbers", f"exit code {code}\n{run.log_text()}")
    tap.check(not os.path.exists(run.folder), "the run folder is not created")


if __name__ == "__main__":
    if not shutil.which("mpirun"):
        print("ok 1 - training on several ranks # SKIP no mpirun")
        sys.exit(0)
    runs.main([test_world_sizes, test_reproducible, test_reproducible_unpaired, test_reproducible_bf16, test_reproducible_recurrent,
               test_straggler, test_deadlines, test_threads, test_rejected_world_size])
