#!/usr/bin/python3
# tests/run: mostly waits
"""Tests tests/bench/gpu with stand-ins for celforge and step_torch.py: a mode that fails, crashes, breaks the device or hangs
is reported and does not affect the other measurements; a signal ends all processes."""
import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.append(os.path.join(HERE, ".."))
import runs  # noqa: E402

# Stand-in for step_torch.py with the same interface. The environment variable CONFIG_MODE tells what a mode does.
TORCH_STEP = """
import json, os, sys, time
modes, failures = sys.argv[9].split(","), []
for mode in modes:
    print("begin", mode, flush=True)
    behaviour = os.environ.get(f"{os.path.basename(sys.argv[1]).split('.')[0]}_{mode}".replace("-", "_"), "works")
    if behaviour == "crash": os.abort()
    if behaviour == "broken": print(mode, "broke the device", file=sys.stderr, flush=True); os._exit(4)
    if behaviour == "hang":
        with open(os.path.join(os.path.dirname(__file__), "child"), "w") as file: file.write(str(os.getpid()))
        time.sleep(314)
    if behaviour == "memory": failures.append(f"{mode} (OutOfMemoryError)"); continue
    print(json.dumps({"mode": mode, "layout": sys.argv[7], "engines": sys.argv[10], "step_seconds": 1, "memory_bytes": 1,
                      "kernels": [[mode + "_kernel", 2, 0.25]]}), flush=True)
if failures: sys.exit(print("failed:", *failures, file=sys.stderr) or 3)
"""
CELFORGE = """#!/bin/sh
[ "$1" = config ] && exec {celforge} "$@"
while [ $# -gt 0 ]; do [ "$1" = --json ] && echo '{{"step_seconds": 1, "memory_bytes": 1, "gflops": 1}}' >"$2"; shift; done
"""
PEAKS = {"device": "none", "torch": "0", "cudnn": 0, "copy_bytes_per_second": 1e9, "bf16_flops": 1e9}


def load(folder):
    """Loads tests/bench/gpu as a module that runs the stand-ins."""
    loader = importlib.machinery.SourceFileLoader("bench_gpu", os.path.join(HERE, "gpu"))
    bench = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_gpu", loader))
    loader.exec_module(bench)
    bench.HERE, bench.CELFORGE = folder, os.path.join(folder, "celforge")
    for name, text in (("step_torch.py", TORCH_STEP), ("celforge", CELFORGE.format(celforge=runs.CELFORGE))):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(os.path.join(folder, name), 0o755)
    return bench


def measure(folder, seconds, names=("demo",), **behaviour):
    """Measures configs whose modes behave as `behaviour` (CONFIG_MODE=...) says. Returns the module, the rows, and a list of
    (log file, time limit in seconds) of all processes."""
    bench, limits = load(folder), []
    os.environ.update(TORCHINDUCTOR_CACHE_DIR=folder, **behaviour)
    call = bench.call
    bench.call = lambda seconds, *rest, **more: (limits.append((rest[0], seconds)), call(seconds, *rest, **more))[1]
    workloads = [bench.Workload(os.path.join(ROOT, "configs", f"{name}.yaml"), [], folder, folder) for name in names]
    for rows in bench.measure(workloads, bench.Deadline(seconds), 5, PEAKS):
        pass
    for name in behaviour:
        del os.environ[name]
    return bench, rows, limits


def modes_of(row, engines):
    return [result["mode"] for result in row["results"]
            if (result.get("layout"), result.get("engines")) == ("channels-last", engines)]


def test_failures(tap, folder):
    others = ["compiled", "compiled-captured", "captured"]
    for behaviour, name, message in (("memory", "out of memory", "exit code 3: failed: eager (OutOfMemoryError)"),
                                     ("crash", "a crash", "eager: exit code -6"),
                                     ("broken", "a broken device", "eager: exit code 4: eager broke the device")):
        bench, (row,), _ = measure(folder, 100, demo_eager=behaviour)
        is_reported = any(failure.endswith(f": {message}") for failure in row["failures"])
        tap.check(modes_of(row, "benchmark") == others and is_reported,
                  f"{name} in one mode is reported, and all other modes are measured", row)
        text = bench.table([row], PEAKS)
        tap.check(message in text and text.count("| compiled |") == 1, f"{name}: the table has the failure and the results", text)
        kernels = bench.kernel_tables([row])
        tap.check("   250.000     25.0 %      2  compiled_kernel\n" in kernels,
                  f"{name}: the kernels of measured modes are listed", kernels)
        with open(os.devnull, "w", encoding="utf-8") as null:
            sys.stdout, out = null, sys.stdout
            passed = bench.print_tap([row])
            sys.stdout = out
        outcome = "succeeds, since PyTorch cannot run the mode" if behaviour == "memory" else "fails"
        tap.check(passed == (behaviour == "memory"), f"{name}: the benchmark {outcome}", row)
    _, (row,), _ = measure(folder, 100, demo_eager="crash", demo_compiled_captured="crash")
    tap.check(modes_of(row, "benchmark") == ["compiled", "captured"], "after two crashes the other two modes are measured", row)


def test_time_limit(tap, folder):
    _, rows, limits = measure(folder, 30, ("demo", "base", "hd"), base_compiled="hang", hd_compiled="hang")
    reported = [failure for row in rows[1:] for failure in row["failures"] if "compiled: timed out after" in failure]
    tap.check(len(reported) >= 2 and all(modes_of(row, "heuristics") == ["eager"] for row in rows[1:]),
              "a mode that hangs is reported, and the results before it are kept", rows)
    steps = [seconds for log, seconds in limits if "channels-last-heuristics" in log]
    tap.check(len(steps) >= 2 and steps[1] > 0.7 * steps[0],
              "after a config that hangs the next one gets a similar time limit", limits)


def is_alive(path):
    with open(path, encoding="ascii") as file:
        return runs.process_state(int(file.read())) not in ("", "Z", "X")


def test_signal(tap, folder):
    """Ends the benchmark with SIGTERM, as tests/gpu/run does."""
    load(folder)
    os.makedirs(os.path.join(folder, "bench"))
    with open(os.path.join(folder, "start.py"), "w", encoding="utf-8") as file:
        file.write(f"""
import sys
sys.argv = ["gpu", "--prepare", "--out", {folder + "/out"!r}, "--set", "train.device=cpu", {ROOT + "/configs/demo.yaml"!r}]
sys.path.insert(0, {HERE!r})
import test_gpu
bench = test_gpu.load({folder!r})
bench.PROBE = ""
bench.main()
""")
    path = os.path.join(folder, "child")
    process = subprocess.Popen([sys.executable, os.path.join(folder, "start.py")], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True, env={**os.environ, "demo_compile": "hang"})
    end = time.monotonic() + 60
    while not (os.path.exists(path) and os.path.getsize(path)) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    end = time.monotonic() + 5
    while is_alive(path) and time.monotonic() < end:
        time.sleep(0.05)
    tap.check(not is_alive(path), "SIGTERM also ends the running step, which holds device memory")


def main():
    tap = runs.Tap()
    for test in (test_failures, test_time_limit, test_signal):
        with tempfile.TemporaryDirectory(prefix="celforge-bench-") as folder:
            test(tap, folder)
    tap.end()


if __name__ == "__main__":
    main()
