#!/usr/bin/python3
"""time/comm_exposed over NCCL, with and without CUDA graphs. The emulated NCCL makes every all-reduce take DELAY."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import runs  # noqa: E402

DELAY = 0.2  # seconds
SETTINGS = {"train.device": "cuda", "train.steps": 10, "checkpoint.every": 10, "metrics.every": 5, "model.channels": 8,
            "comm.backend": "nccl", "comm.overlap": False}
ALL_REDUCES = 2  # per step: the gradients of the generator and of the discriminator


def exposed_seconds(run):
    """Returns the exposed seconds per step of the last metrics record."""
    with open(run.path("metrics.jsonl"), encoding="utf-8") as file:
        record = json.loads(file.readlines()[-1])
    return record["time/comm_exposed"] * record["step_seconds"]


def test_exposed(tap, folder):
    """Slow all-reduces over NCCL"""
    data = runs.synth(os.path.join(folder, "data"))
    runs.ENVIRONMENT["EMULATOR_NCCL_DELAY"] = str(DELAY)
    for graphs in (True, False):
        run = runs.Run(os.path.join(folder, f"graphs-{graphs}"), data, {**SETTINGS, "cuda.graphs": graphs})
        run.must_train(1, "none")
        if "emulated GPU" not in run.log_text():
            tap.skip("slow all-reduces", "needs the emulated NCCL")
            return
        seconds = exposed_seconds(run)
        tap.check(seconds > 0.8 * ALL_REDUCES * DELAY, f"cuda.graphs: {str(graphs).lower()}: waits count as exposed communication",
                  f"{seconds} s per step")


if __name__ == "__main__":
    runs.main_on_gpu([test_exposed])
