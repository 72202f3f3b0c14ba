#!/usr/bin/python3
"""Runs tests/bench/unpaired with a few steps on small clips, and checks its table; a second call takes the kept results."""
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def main():
    count, failed = 0, 0

    def check(good, name, detail=""):
        nonlocal count, failed
        count, failed = count + 1, failed + (not good)
        print(f"{'ok' if good else 'not ok'} {count} - {name}", flush=True)
        if not good:
            print("".join(f"# {line}\n" for line in str(detail).splitlines()), end="", flush=True)

    with tempfile.TemporaryDirectory(prefix="celforge-unpaired-test-") as folder:
        command = [os.path.join(ROOT, "tests/bench/unpaired"), "--steps", "2", "--clips", "4", "--size", "64x48",
                   "--variant", "unpaired", "--variant", "PatchNCE off", "--keep", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        check(done.returncode == 0, "the benchmark succeeds", done.stdout + done.stderr)
        rows = [line.split(" | ")[0].strip("| ") for line in done.stdout.splitlines()]
        check(rows[2:] == ["source", "paired", "unpaired", "PatchNCE off"], "the table has the source and the variants", done.stdout)
        shares = re.findall(r"\((-?\d+|nan) %\)", next(line for line in done.stdout.splitlines() if "| paired |" in line))
        check(all(share in ("100", "nan") for share in shares) and len(shares) == 3, "paired training has its own gain", done.stdout)
        logs = [os.path.isdir(os.path.join(folder, name)) for name in ("run-paired", "run-unpaired", "run-PatchNCE-off")]
        check(all(logs), "each variant has a run of its own", os.listdir(folder))
        again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        check(again.stdout == done.stdout, "a second call prints the kept results", again.stdout)
    print(f"1..{count}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
