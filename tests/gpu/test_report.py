#!/usr/bin/python3
"""tests/gpu/run with small scripts in place of the tests: its table reports passed, failed, hung and crashed tests, a
hung test leaves time for the others, and the table is written on a signal."""
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests"))
import runs  # noqa: E402

SCRIPTS = {
    "celforge": "echo celforge 0",
    "tests/gpu/test_backend": "echo 'ok 1 - one'; echo 'ok 2 - two # SKIP no reason'",
    "tests/gpu/test_ops": "echo 'ok 1 - one'; echo 'conv3d [2,4,8]: 1, 2 expected' >&2; echo 'not ok 2 - two'; echo '# ops.c:7'; exit 1",
    "tests/gpu/test_convolution": "echo 'ok 1 - one'; sleep 314 & echo $! >$BUILD/child; wait",
    "tests/gpu/test_training": "echo 'ok 1 - one'; echo 'about to crash'; kill -SEGV $$",
    "tests/gpu/test_reduce": "echo 'ok 1 - one'",
}
LIMIT = 60


def make_build(folder):
    build = os.path.join(folder, "build")
    os.makedirs(os.path.join(build, "tests", "gpu"))
    for name, text in SCRIPTS.items():
        path = os.path.join(build, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\n{text}\n")
        os.chmod(path, 0o755)
    return build


def start(build, out, seconds, jobs, *parts):
    return subprocess.Popen([sys.executable, os.path.join(ROOT, "tests/gpu/run"), "--out", out, *parts], stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True,
                            env={**os.environ, "BUILD": build, "GPU_SECONDS": str(seconds), "GPU_JOBS": str(jobs)})


def results(out):
    with open(os.path.join(out, "summary.json"), encoding="utf-8") as file:
        return {part["name"]: part for part in json.load(file)["parts"]}


def child_is_alive(build):
    """True if the process that the hanging test started is still alive."""
    with open(os.path.join(build, "child"), encoding="ascii") as file:
        child = file.read().strip()
    try:
        with open(f"/proc/{child}/stat", encoding="ascii") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_outcomes(tap, folder, jobs):
    build, out = make_build(folder), os.path.join(folder, "out")
    process = start(build, out, 22, jobs, "backend", "ops", "training", "reduce", "convolution")
    text, _ = process.communicate(timeout=LIMIT)
    found = results(out)
    counts = {name: tuple(part[key] for key in ("passed", "failed", "skipped")) for name, part in found.items()}
    expected = {"backend": (1, 0, 1), "ops": (1, 1, 0), "convolution": (1, 1, 0), "training": (1, 1, 0), "reduce": (1, 0, 0)}
    tap.check(counts == expected, "counts passed, failed and skipped tests; a hung test leaves time for the others", counts)
    expected = "--- ops: not ok 2 - two\n    conv3d [2,4,8]: 1, 2 expected\n    # ops.c:7\n"
    tap.check(expected in text, "the table has the output of a failed test", text)
    tap.check("about to crash" in text and "ended by SIGSEGV" in text, "the table has the last output of a crashed test", text)
    tap.check("timed out after" in found["convolution"]["note"] and not child_is_alive(build),
              "a hung test is ended at its time limit, with its child processes", found["convolution"])
    names = sorted(os.listdir(out))
    with tarfile.open(os.path.join(out, "logs.tar.gz")) as archive:
        logs = archive.getnames()
    tap.check(process.returncode == 1 and names == ["logs.tar.gz", "summary.json", "table.txt"] and "logs/ops.log" in logs,
              "exit code 1; writes logs.tar.gz, summary.json and table.txt", f"{process.returncode} {names} {logs}")


def test_signal(tap, folder, jobs):
    build, out = make_build(folder), os.path.join(folder, "out")
    process = start(build, out, 540, jobs, "backend", "convolution", "reduce")
    deadline = time.monotonic() + LIMIT
    others = ["backend"] if jobs == 1 else ["backend", "reduce"]
    while time.monotonic() < deadline:
        done = results(out) if os.path.exists(os.path.join(out, "summary.json")) else {}
        if os.path.exists(os.path.join(build, "child")) and all("passed" in done.get(name, {}) for name in others):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=LIMIT)
    rest = results(out)["reduce"]
    tap.check("a signal ended the run" in text and results(out)["backend"]["passed"] == 1
              and rest.get("note") == ("not started" if jobs == 1 else ""),
              "a signal ends the run, with a table of the results so far", text)
    tap.check(not child_is_alive(build), "a signal ends the processes of the running part")


def main():
    tap = runs.Tap()
    for test in (test_outcomes, test_signal):
        for jobs in (1, 3):
            with tempfile.TemporaryDirectory(prefix="celforge-report-") as folder:
                test(tap, folder, jobs)
    process = subprocess.run([sys.executable, os.path.join(ROOT, "tests/gpu/run"), "nonsense"], capture_output=True, text=True,
                             timeout=LIMIT, check=False)
    tap.check(process.returncode == 1 and "unknown part: nonsense" in process.stderr, "an unknown part is an error", process.stderr)
    tap.end()


if __name__ == "__main__":
    main()
