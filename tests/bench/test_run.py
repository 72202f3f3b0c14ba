#!/usr/bin/python3
"""Runs tests/bench/run with a tiny network and small frames, and checks its tables and results.json."""
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CONFIG = {
    "model": {"channels": 4, "blocks": 0, "image_scales": 1, "image_channels": 4, "image_layers": 1, "video": False},
    "train": {"global_batch": 2, "micro_batch": 1},
}


def main():
    count, failed = 0, 0

    def check(good, name, detail=""):
        nonlocal count, failed
        count, failed = count + 1, failed + (not good)
        print(f"{'ok' if good else 'not ok'} {count} - {name}", flush=True)
        if not good:
            print("".join(f"# {line}\n" for line in str(detail).splitlines()), end="", flush=True)

    with tempfile.TemporaryDirectory(prefix="celforge-bench-test-") as folder:
        config = os.path.join(folder, "tiny.yaml")
        with open(config, "w", encoding="utf-8") as file:
            json.dump(CONFIG, file)  # JSON is YAML
        command = [os.path.join(ROOT, "tests/bench/run"), "--rounds", "1", "--steps", "1", "--threads", "1",
                   "--frame-size", "64x48", "--out", folder, config]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        check(done.returncode == 0, "the benchmark succeeds", done.stderr)
        if done.returncode == 0:
            check("| tiny, f32 | 2, 8x64x64 |" in done.stdout, "the table has a row for the training step", done.stdout)
            check("demo's network, 64x48, f32" in done.stdout, "the table has a row for translation", done.stdout)
            with open(os.path.join(folder, "results.json"), encoding="utf-8") as file:
                results = json.load(file)
            step, translation, loader = (results[name][0] for name in ("steps", "translation", "loaders"))
            check(step["speedup_over_torch"] == step["torch_step_seconds"] / step["step_seconds"] > 0,
                  "results.json: the speedup is the ratio of the step times", step)
            check(translation["frame_seconds"] > 0 and loader["clips_per_second"] > 0,
                  "results.json: translation and data loader have positive rates", results)
            with open(os.path.join(folder, "table.md"), encoding="utf-8") as file:
                check(file.read() in done.stdout, "table.md is the printed table")
    print(f"1..{count}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
