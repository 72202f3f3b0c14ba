#!/usr/bin/python3
"""A short fault campaign: each kind of fault once, at moments that CELFORGE_TEST_SEED selects."""
import importlib.machinery
import importlib.util
import os
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import support_campaign  # noqa: E402
from support_campaign import runs  # noqa: E402
from support_kinds import KINDS  # noqa: E402

SLACK = 3  # deadlines are this much longer, for busy machines
SEED = int(os.environ.get("CELFORGE_TEST_SEED", "2026"))


def load_campaign():
    loader = importlib.machinery.SourceFileLoader("campaign", os.path.join(HERE, "campaign"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("campaign", loader))
    loader.exec_module(module)
    return module


def test_each_kind(tap, folder):
    """Each kind of fault"""
    if not shutil.which("mpirun"):
        tap.skip("each kind of fault", "no mpirun")
        return
    support_campaign.become_subreaper()
    injections, number, missed = load_campaign().run_campaign(list(KINDS), len(KINDS), SEED, folder, SLACK)
    for item in injections:
        what = f"{item['kind']}: {KINDS[item['kind']].what}"
        tap.check(not item["wrong"], f"{what}: reported in time, and the final checkpoint has the same bytes", "\n".join(item["wrong"]))
    tap.check(missed == 0 and {item["kind"] for item in injections} == set(KINDS), f"each kind injected, in {number} runs",
              f"{missed} were not")


if __name__ == "__main__":
    print(f"# CELFORGE_TEST_SEED={SEED}", flush=True)
    runs.main([test_each_kind])
