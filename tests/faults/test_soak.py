#!/usr/bin/python3
"""A short soak: its parts, 300 steps with each kind of fault, driven by two processes in turn, and a run that leaks."""
import importlib.machinery
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import support_flat  # noqa: E402
from support_soak import KINDS, Soak, runs, schedule  # noqa: E402

STEPS, TIMEOUT, SLACK, WARM_UP = 300, 4, 6, 50
SEED = int(os.environ.get("CELFORGE_TEST_SEED", "2026"))


def load_soak():
    loader = importlib.machinery.SourceFileLoader("soak", os.path.join(HERE, "soak"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("soak", loader))
    loader.exec_module(module)
    return module


def series(quantity, level, per_step, steps=400):
    """Samples of one life on one rank, of which one quantity grows."""
    flat = {"rss": 60000, "descriptors": 7, "threads": 5, "files": 25, "bytes": 2000000}
    return [{"step": step, "age": step, "life": 0, "rank": 0, "ranks": 1, **flat, quantity: level + int(per_step * step)}
            for step in range(10, steps, 10)]


def test_parts(tap, folder):
    """The schedule and the test of flatness"""
    plan = schedule(20000, 1)
    tap.check(plan == schedule(20000, 1) != schedule(20000, 2), "the schedule is a function of steps and seed")
    tap.check(plan == sorted(plan) and {kind for _, kind in plan} == set(KINDS) and all(0 < step < 19980 for step, _ in plan),
              "it is in order, within the run, and has every kind", plan)
    tap.check({kind for _, kind in schedule(STEPS, SEED)} == set(KINDS), "so has a short one")
    flat = support_flat.growing(series("rss", 60000, 0), WARM_UP)
    tap.check(not flat, "a flat series is flat", flat)
    for quantity, level, per_step in (("rss", 60000, 2), ("descriptors", 7, 0.01), ("threads", 5, 0.01), ("files", 25, 0.01),
                                      ("bytes", 2000000, 1000)):
        found = support_flat.growing(series(quantity, level, per_step), WARM_UP)
        tap.check(found and all(text.startswith(quantity) for text in found), f"growing {quantity} are found", found)
        found = support_flat.growing(series(quantity, level + 2 * int(per_step * 400), -per_step), WARM_UP)
        tap.check(not found, f"falling {quantity} are allowed", found)
    lives = [{**sample, "life": life, "step": sample["step"] + 400 * life, "rss": 60000 + 1000 * life}
             for life in range(9) for sample in series("rss", 60000, 0)]
    found = support_flat.growing(lives, WARM_UP)
    tap.check(len(found) == 1 and "at the beginning of lives" in found[0], "lives that each begin with more memory are found", found)


def test_short_soak(tap, folder):
    """300 steps with each kind of fault"""
    if not shutil.which("mpirun"):
        tap.skip("a soak", "no mpirun")
        return
    kept = os.path.join(folder, "soak")
    options = {"--steps": STEPS, "--seed": SEED, "--timeout": TIMEOUT, "--slack": SLACK, "--keep": kept}
    command = [os.path.join(HERE, "soak"), *(str(word) for option in options.items() for word in option)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=runs.ENVIRONMENT)
    runs.wait_until(lambda: first.poll() is not None or line_count(os.path.join(kept, "faults.jsonl")) >= 3, "three faults")
    first.send_signal(signal.SIGKILL)
    tap.check(first.wait() == -signal.SIGKILL, "the driver is killed")
    begin, soak = time.monotonic(), None
    try:
        soak, wrong = load_soak().run_soak(kept, STEPS, SEED, TIMEOUT, SLACK)
        tap.check(not wrong, "flat, and with the bytes, sheets and metrics of an undisturbed run", "\n".join(wrong))
    finally:
        if os.path.ismount(os.path.join(kept, "disk")):
            subprocess.run(["umount", "-l", os.path.join(kept, "disk")], check=False)
    injected = {fault["kind"] for fault in soak.faults}
    tap.check(injected == set(KINDS), "every kind of fault was injected", sorted(injected))
    tap.check({sample["ranks"] for sample in soak.samples} == {1, 2}, "on one rank and on two", soak.state)
    print(f"# {len(soak.faults)} faults, {soak.state['starts']} starts, the second driver took {time.monotonic() - begin:.0f} s")


def line_count(path):
    try:
        with open(path, "rb") as file:
            return file.read().count(b"\n")
    except FileNotFoundError:
        return 0


def test_leaks(tap, folder):
    """A run into which leaks are injected"""
    soak = Soak(os.path.join(folder, "soak"), STEPS, SEED, 60, SLACK)
    try:
        soak.plan = []
        soak.run.environment["CLOCK_LEAK"] = "20"
        tap.check(soak.live(), "it runs to its end", soak.run.log_text())
        found = "\n".join(support_flat.growing(soak.samples, soak.warm_up))
        tap.check(all(f"{name} of rank 0 in life 0" in found for name in ("rss", "descriptors", "threads")) and "files" not in found,
                  "growing memory, descriptors and threads are found", found)
    finally:
        soak.disk.unmount()


if __name__ == "__main__":
    print(f"# CELFORGE_TEST_SEED={SEED}", flush=True)
    runs.main([test_parts, test_short_soak, test_leaks])
