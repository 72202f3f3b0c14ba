#!/usr/bin/python3
"""Runs tests/bench/unpaired with a few steps on small clips, and checks its table; a second call takes the kept results."""
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests"))
from runs import Tap  # noqa: E402


def main():
    tap = Tap()
    with tempfile.TemporaryDirectory(prefix="celforge-unpaired-test-") as folder:
        command = [os.path.join(ROOT, "tests/bench/unpaired"), "--steps", "2", "--clips", "4", "--size", "64x48",
                   "--variant", "unpaired", "--variant", "PatchNCE off", "--keep", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        tap.check(done.returncode == 0, "the benchmark succeeds", done.stdout + done.stderr)
        rows = [line.split(" | ")[0].strip("| ") for line in done.stdout.splitlines()]
        tap.check(rows[2:] == ["source", "paired", "unpaired", "PatchNCE off"], "the table has the source and the variants", done.stdout)
        shares = re.findall(r"\((-?\d+|nan) %\)", next(line for line in done.stdout.splitlines() if "| paired |" in line))
        tap.check(all(share in ("100", "nan") for share in shares) and len(shares) == 3, "paired training has its own gain", done.stdout)
        logs = [os.path.isdir(os.path.join(folder, name)) for name in ("run-paired", "run-unpaired", "run-PatchNCE-off")]
        tap.check(all(logs), "each variant has a run of its own", os.listdir(folder))
        again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        tap.check(again.stdout == done.stdout, "a second call prints the kept results", again.stdout)
    tap.end()


if __name__ == "__main__":
    main()
