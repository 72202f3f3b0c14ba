#!/usr/bin/python3
"""A short campaign of failing system calls: one life of each command, with faults that CELFORGE_TEST_SEED selects."""
import dataclasses
import importlib.machinery
import importlib.util
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import support_world  # noqa: E402
from support_faults import Fault  # noqa: E402
from support_lives import Life  # noqa: E402
from support_tools import TOOLS  # noqa: E402
from support_world import runs  # noqa: E402

SLACK = 3  # for busy machines
SEED = int(os.environ.get("CELFORGE_TEST_SEED", "17"))

LAST = 0
# Faults that once ended in a wrong exit code, a wrong message or lost data.
REGRESSIONS = [
    ("synth-video", Fault("write", "out.mp#.#-#.tmp", 1, "ESTALE", "once", 0)),
    ("synth-video", Fault("create", "out.mp#.#-#.tmp", 2, "EINTR", "once", 0)),
    ("resume", Fault("stat", "run/checkpoints", 1, "ESTALE", "once", 0)),
    ("train-used", Fault("stat", "run/checkpoints", 1, "EIO", "once", 0)),
    ("resume", Fault("rmdir", "run/checkpoints/step-#", 1, "ENOTEMPTY", "kind", 0)),
    ("train", Fault("create", "run/checkpoints/latest.#-#.tmp", 2, "ENOSPC", "once", 0)),
    ("train", Fault("read", "data/shard-#.h#", LAST, "EIO", "once", 0)),  # of a sample sheet, or of a clip prefetched in vain
    ("eval", Fault("open", "run/checkpoints/step-#/generator.safetensors", 1, "ESTALE", "once", 0)),
    ("pack-png", Fault("unlink", "out/shard-#.h#.#-#.tmp", 1, "EROFS", "kind", 0)),
    ("pack-png", Fault("read", "source/#.png", 1, "EIO", "once", 0)),
]


def load_campaign():
    loader = importlib.machinery.SourceFileLoader("syscalls", os.path.join(HERE, "campaign"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("syscalls", loader))
    loader.exec_module(module)
    return module


def test_each_command(tap, folder):
    """Failing system calls"""
    if not shutil.which("mpirun"):
        tap.skip("failing system calls", "no mpirun")
        return
    support_world.campaign.become_subreaper()
    campaign = load_campaign()
    world = support_world.World(folder, SLACK)
    for number, (tool, fault) in enumerate(REGRESSIONS, 1):
        calls = world.reference(TOOLS[tool]).calls[fault.rank][fault.call]
        fault = dataclasses.replace(fault, at=fault.at or calls[fault.kind])
        life = Life(world, TOOLS[tool], SEED, number, [fault]).run()
        tap.check(not life["wrong"] and life["injections"][0]["hits"], f"{tool}: {fault.error} at {fault.call} of {fault.kind}",
                  campaign.describe(life))
    results = campaign.run_campaign(list(TOOLS), SEED, world, len(TOOLS))
    for life in results:
        tap.check(not life["wrong"], f"{life['tool']}: failing calls are reported, damage nothing, and do not prevent the next start",
                  campaign.describe(life))
    hit = sum(item["hits"] > 0 for life in results for item in life["injections"])
    tap.check({life["tool"] for life in results} == set(TOOLS) and hit >= len(TOOLS) // 2, f"{hit} faults in {len(results)} lives",
              "commands are missing, or the faults were not injected")


if __name__ == "__main__":
    print(f"# CELFORGE_TEST_SEED={SEED}", flush=True)
    runs.main([test_each_command])
