#!/usr/bin/python3
"""Runs tests/bench/run with tiny networks, paired and unpaired, and small frames, and checks its tables and results.json."""
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODEL = {"channels": 4, "blocks": 0, "image_scales": 1, "image_channels": 4, "image_layers": 1, "video": False}
CONFIGS = {
    "tiny": {"model": MODEL, "train": {"global_batch": 2, "micro_batch": 1}},
    "unpaired": {
        "data": {"path": "no-such-sources", "target_path": "no-such-targets", "frames": 2, "crop_height": 32, "crop_width": 48},
        "model": {**MODEL, "conditional": False, "smooth_base": True, "grey_view": True, "smooth_view": True},
        "loss": {"l1": 0, "temporal": 0, "edge_negatives": 0.5, "patch_nce": 1, "color": 1, "motion_consistency": 1,
                 "flow_consistency": 1},
        "augment": {"mode": "adaptive"},
        "train": {"global_batch": 2, "micro_batch": 2},
    },
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
        paths = [os.path.join(folder, f"{name}.yaml") for name in CONFIGS]
        for path, config in zip(paths, CONFIGS.values()):
            with open(path, "w", encoding="utf-8") as file:
                json.dump(config, file)  # JSON is YAML
        command = [os.path.join(ROOT, "tests/bench/run"), "--rounds", "1", "--steps", "1", "--threads", "1",
                   "--frame-size", "64x48", "--out", folder, *paths]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        check(done.returncode == 0, "the benchmark succeeds", done.stderr)
        if done.returncode == 0:
            for row in ("| tiny, f32 | 2, 8x64x64 |", "| unpaired, f32 | 2, 2x32x48 |"):
                check(row in done.stdout, f"the table has a row {row}", done.stdout)
            check("demo's network, 64x48, f32" in done.stdout, "the table has a row for translation", done.stdout)
            with open(os.path.join(folder, "results.json"), encoding="utf-8") as file:
                results = json.load(file)
            check({step["config"] for step in results["steps"]} == set(CONFIGS), "results.json: steps of both configs", results)
            for step in results["steps"]:
                check(step["speedup_over_torch"] == step["torch_step_seconds"] / step["step_seconds"] > 0,
                      f"results.json, {step['config']}, {step['precision']}: the speedup is the ratio of the step times", step)
                check(step["memory_bytes"] > 0 and step["torch_memory_bytes"] > 0,
                      f"results.json, {step['config']}, {step['precision']}: memory of both sides", step)
            translation, loader = results["translation"][0], results["loaders"][0]
            check(translation["frame_seconds"] > 0 and loader["clips_per_second"] > 0,
                  "results.json: translation and data loader have positive rates", results)
            with open(os.path.join(folder, "table.md"), encoding="utf-8") as file:
                check(file.read() in done.stdout, "table.md is the printed table")
    print(f"1..{count}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
