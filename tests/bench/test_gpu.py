#!/usr/bin/python3
# tests/run: mostly waits
"""tests/bench/gpu itself, with scripts in the place of both sides: what fails, crashes, breaks the device, hangs or is
ended costs the other measurements nothing, and is told."""
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

# step_torch.py as far as its caller sees it: each mode does what the environment says of it.
STEP = """
import json, os, sys, time
modes, failures = sys.argv[9].split(","), []
for mode in modes:
    print("begin", mode, flush=True)
    what = os.environ.get(f"{os.path.basename(sys.argv[1]).split('.')[0]}_{mode}".replace("-", "_"), "fine")
    if what == "crash": os.abort()
    if what == "broken": print(mode, "broke it", file=sys.stderr, flush=True); os._exit(4)
    if what == "hang":
        with open(os.path.join(os.path.dirname(__file__), "child"), "w") as file: file.write(str(os.getpid()))
        time.sleep(314)
    if what == "memory": failures.append(f"{mode} (OutOfMemoryError)"); continue
    print(json.dumps({"mode": mode, "layout": sys.argv[7], "engines": sys.argv[10], "step_seconds": 1, "memory_bytes": 1,
                      "kernels": [[mode + "_kernel", 2, 0.25]]}), flush=True)
if failures: sys.exit(print("failed:", *failures, file=sys.stderr) or 3)
"""
OURS = """#!/bin/sh
[ "$1" = config ] && exec {celforge} "$@"
while [ $# -gt 0 ]; do [ "$1" = --json ] && echo '{{"step_seconds": 1, "memory_bytes": 1, "gflops": 1}}' >"$2"; shift; done
"""
PEAKS = {"device": "none", "torch": "0", "cudnn": 0, "copy_bytes_per_second": 1e9, "bf16_flops": 1e9}


def load(folder):
    """tests/bench/gpu as a module, with the scripts."""
    loader = importlib.machinery.SourceFileLoader("bench_gpu", os.path.join(HERE, "gpu"))
    bench = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_gpu", loader))
    loader.exec_module(bench)
    bench.HERE, bench.CELFORGE = folder, os.path.join(folder, "celforge")
    for name, text in (("step_torch.py", STEP), ("celforge", OURS.format(celforge=runs.CELFORGE))):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(os.path.join(folder, name), 0o755)
    return bench


def measured(folder, seconds, names=("demo",), **what):
    """Rows of the configs, whose modes do `what`, CONFIG_MODE; and the seconds that each call was given."""
    bench, given = load(folder), []
    os.environ.update(TORCHINDUCTOR_CACHE_DIR=folder, **what)
    call = bench.call
    bench.call = lambda seconds, *rest, **more: (given.append((rest[0], seconds)), call(seconds, *rest, **more))[1]
    settings = [bench.Setting(os.path.join(ROOT, "configs", f"{name}.yaml"), [], folder, folder) for name in names]
    for rows in bench.measure(settings, bench.Clock(seconds), 5, PEAKS):
        pass
    for name in what:
        del os.environ[name]
    return bench, rows, given


def modes_of(row, engines):
    return [result["mode"] for result in row["results"] if (result.get("layout"), result.get("engines")) == ("channels-last", engines)]


def test_failures(tap, folder):
    others = ["compiled", "compiled-captured", "captured"]
    for what, said in (("memory", "exit code 3: failed: eager (OutOfMemoryError)"), ("crash", "eager: exit code -6"),
                       ("broken", "eager: exit code 4: eager broke it")):
        bench, (row,), _ = measured(folder, 100, demo_eager=what)
        tap.check(modes_of(row, "benchmark") == others and any(failure.endswith(f": {said}") for failure in row["failures"]),
                  f"{what} in one mode costs the others nothing, and is told", row)
        text = bench.table([row], PEAKS)
        tap.check(said in text and text.count("| compiled |") == 1, f"{what}: the table has both", text)
        kernels = bench.kernel_tables([row])
        tap.check("   250.000     25.0 %      2  compiled_kernel\n" in kernels, f"{what}: kernels of what was measured", kernels)
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            sys.stdout, out = nowhere, sys.stdout
            good = bench.say_outcome([row])
            sys.stdout = out
        tap.check(good == (what == "memory"), f"{what}: {'no ' if what == 'memory' else ''}failure of the benchmark", row)
    _, (row,), _ = measured(folder, 100, demo_eager="crash", demo_compiled_captured="crash")
    tap.check(modes_of(row, "benchmark") == ["compiled", "captured"], "two crashes cost two modes", row)


def test_time(tap, folder):
    _, rows, given = measured(folder, 30, ("demo", "base", "hd"), base_compiled="hang", hd_compiled="hang")
    told = [failure for row in rows[1:] for failure in row["failures"] if "compiled: not done after" in failure]
    tap.check(len(told) >= 2 and all(modes_of(row, "heuristics") == ["eager"] for row in rows[1:]),
              "a mode that hangs is named, and what came before it is kept", rows)
    steps = [seconds for log, seconds in given if "channels-last-heuristics" in log]
    tap.check(len(steps) >= 2 and steps[1] > 0.7 * steps[0], "what hangs in one config leaves the next as much time", given)


def alive(path):
    with open(path, encoding="ascii") as file:
        return runs.state_of(int(file.read())) not in ("", "Z", "X")


def test_signal(tap, folder):
    """As tests/gpu/run ends a part."""
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
    while alive(path) and time.monotonic() < end:
        time.sleep(0.05)
    tap.check(not alive(path), "a signal ends the step that runs as well, which has the device's memory")


def main():
    tap = runs.Tap()
    for test in (test_failures, test_time, test_signal):
        with tempfile.TemporaryDirectory(prefix="celforge-bench-") as folder:
            test(tap, folder)
    tap.end()


if __name__ == "__main__":
    main()
