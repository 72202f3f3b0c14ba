#!/usr/bin/python3
"""Training on several ranks: what is learnt does not depend on how many they are, and two equal runs
leave equal bytes."""
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import runs  # noqa: E402

STEPS = 20


def test_world_sizes(tap, folder):
    """The same losses on 1, 2 and 4 ranks, the same bytes twice"""
    data = runs.synth(os.path.join(folder, "data"))

    def run(name, ranks):
        settings = {"train.steps": STEPS, "checkpoint.every": 10}
        return runs.Run(os.path.join(folder, name), data, settings).must_train(ranks, "none")

    one, two, four = run("one", 1), run("two", 2), run("four", 4)
    tap.check([record["step"] for record in one.metrics()] == list(range(1, STEPS + 1)),
              f"metrics of {STEPS} steps", one.metrics())
    first, last = one.metrics()[0], one.metrics()[-1]
    tap.check("loss/d" not in first and last["loss/d"] > 0 and first["loss/g"] != last["loss/g"],
              "a warm-up, then the game, and losses that change", f"{first}\n{last}")
    for name, other in (("2", two), ("4", four)):
        runs.check_same_losses(tap, one.metrics(), other.metrics(), f"{name} ranks have the losses of one")
        differs = runs.difference(one.last_checkpoint(), other.last_checkpoint())
        tap.check(not differs, f"{name} ranks leave the bytes of one", f"different: {differs}")
    again = run("again", 2)
    differs = runs.difference(two.last_checkpoint(), again.last_checkpoint())
    tap.check(len(again.last_checkpoint()) == 6 and not differs, "two runs on 2 ranks leave the same bytes",
              f"different: {differs}")
    tap.check(two.metrics() == again.metrics(), "and write the same metrics")


def test_refused_world_size(tap, folder):
    """A number of ranks that cannot share the batch"""
    data = runs.synth(os.path.join(folder, "data"))
    run = runs.Run(os.path.join(folder, "three"), data, {"train.steps": 2})
    code = run.train(3, "none")
    tap.check(code == 64 and "cannot be shared by 3 ranks; world sizes that would do: 1, 2, 4" in run.said(),
              "3 ranks are refused, with the numbers that would do", f"exit code {code}\n{run.said()}")
    tap.check(not os.path.exists(run.folder), "and nothing is written")


if __name__ == "__main__":
    if not shutil.which("mpirun"):
        print("ok 1 - training on several ranks # SKIP no mpirun")
        sys.exit(0)
    runs.main([test_world_sizes, test_refused_world_size])
