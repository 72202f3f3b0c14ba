#!/usr/bin/python3
"""A few random configurations, which CELFORGE_TEST_SEED selects: equal bytes on 1, 2 and 4 ranks and after a resume."""
import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import support_configurations as configurations  # noqa: E402
from support_configurations import runs  # noqa: E402

COUNT = 6
SEED = int(os.environ.get("CELFORGE_TEST_SEED", "5"))


def test_configurations(tap, folder):
    """Random configurations"""
    if not shutil.which("mpirun"):
        tap.skip("random configurations", "no mpirun")
        return
    world = configurations.World(folder)
    for number in range(COUNT):
        result = configurations.one(world, SEED, number)
        tap.check(not result.wrong, f"{number}: {configurations.summary(result.settings)}", "\n".join(result.wrong))


def test_differences(tap, folder):
    """Runs that differ are told apart"""
    world = configurations.World(folder)
    settings = configurations.draw_settings(configurations.random.Random("1 2"))
    settings.update({"comm.reduce": "reproducible", "train.steps": 2, "checkpoint.every": 1})
    left, right = (configurations.train(world, os.path.join(folder, name), {**settings, "run.seed": seed}, 1, "none").last_checkpoint()
                   for name, seed in (("left", 1), ("right", 2)))
    tap.check(configurations.describe("itself", left, left) == [], "a checkpoint equals itself")
    found = configurations.describe("another seed", left, right)
    tap.check(len(found) == 1 and "generator.safetensors" in found[0], "another seed leaves other bytes, which are named", found)
    try:
        configurations.train(world, os.path.join(folder, "refused"), {**settings, "loss.adversarial_weight": 0, "loss.l1": 0}, 1, "none")
        tap.check(False, "a configuration without a loss is refused")
    except configurations.Refused as reason:
        tap.check("the generator needs loss.l1" in str(reason), "a configuration without a loss is refused", reason)


if __name__ == "__main__":
    print(f"# CELFORGE_TEST_SEED={SEED}", flush=True)
    runs.main([test_configurations, test_differences])
