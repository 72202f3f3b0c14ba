#!/bin/bash
# train --plan: its FLOPs against a count by hand, its parameters against those of a trained checkpoint, its memory against
# its own parts and against what bench step allocates; on one rank and on two; and nothing is written.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
cd "$work" || exit 1
"$celforge" synth data --clips 4 --frames 2 --size 32x32 >out 2>err || exit 1
tiny_config tiny.yaml data run

cat >plan.py <<'PYTHON'
"""Numbers of a printed plan."""
import re
import sys

UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}
BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
text = open(sys.argv[1], encoding="utf-8").read()


def flops(cell):
    number, unit = re.fullmatch(r"([\d.]+)(?: ([KMG]))?", cell).groups()
    return float(number) * UNITS[unit or ""]


def ops(kind):
    """[(name, FLOPs)] of the first program with such ops."""
    return [(name, flops(cell)) for name, cell in re.findall(
        rf"^ +\d+  (\S+) +{kind}\b[^\[]*\[[\d,]+\] +\w+ +([\d.]+(?: [KMG])?) ", text, re.M)]


def memory():
    """({part: bytes}, total bytes)"""
    section = text[text.index("memory of the device"):]
    parts = {name.strip(): float(number) * BYTES[unit] for name, number, unit in
             re.findall(r"^  (\S.*?) {2,}([\d.]+) (B|KiB|MiB|GiB)$", section, re.M)}
    return parts, int(re.search(r"\((\d+) bytes\)", section).group(1))


def step_flops():
    number, unit = re.search(r"one step of this rank: ([\d.]+) ([KMG]?)FLOP", text).groups()
    return float(number) * UNITS[unit]
PYTHON

check() { # NAME PYTHON
  PYTHONDONTWRITEBYTECODE=1 python3 -c "import sys; sys.argv = ['plan', '$plan']
$2" 2>err
  result $? "$1"
}

succeeds "a plan is printed" "$celforge" train tiny.yaml --plan
nothing_left "and nothing is written" run
plan=one
cp out one
check "FLOPs of the convolutions are those counted by hand" '
from plan import *
# 2 x outputs x kernel positions x input channels; channels 4, 8, 16 at 32x32, 16x16, 8x8; 2 frames
count = lambda side, out, kernel, inputs: 2 * 2 * side * side * out * kernel * inputs
by_hand = {"stem": count(32, 4, 3 * 49, 3), "down1": count(16, 8, 9, 4), "down2": count(8, 16, 9, 8),
           "block0.conv1": count(8, 16, 27, 16), "block0.conv2": count(8, 16, 9, 16)}
found = {name: flops for name, flops in ops("conv3d_backward_weights")}
for layer, wanted in by_hand.items():
    mine = [f for name, f in found.items() if f".{layer}.gradient" in name]
    assert len(mine) == 1 and abs(mine[0] / wanted - 1) < 0.02, (layer, mine, wanted)'
check "the parts of the memory add up to its total" '
from plan import *
parts, total = memory()
assert len(parts) >= 4 and abs(sum(parts.values()) / total - 1) < 0.02, (parts, total)'

succeeds "the same config trains" "$celforge" train tiny.yaml
check "the plan has the parameters that the checkpoint holds" '
import json, struct
from plan import *
with open("run/checkpoints/step-00000004/generator.safetensors", "rb") as file:
    header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
elements = sum((b - a) // 4 for name, (a, b) in ((n, t["data_offsets"]) for n, t in header.items() if n != "__metadata__")
               if not name.startswith("ema."))
planned = int(re.search(r"\badam +adam +\[1,1,1,1,(\d+)\]", text).group(1))
assert 0 <= planned - elements < 16 * len(header), (planned, elements)  # each tensor starts at a multiple of 16
state = memory()[0]["parameters and their state"]
assert state >= 5 * 4 * elements, state  # weights, gradients, both moments, averaged weights'
succeeds "a step is measured" "$celforge" bench step tiny.yaml --frames 2 --size 32x32 --steps 1 --json step.json \
  --peak-gflops 100 --peak-gbps 10
prints "with the roofline bound of each op" "bound ms"
check "and has the arena of the plan" '
import json
from plan import *
arena = [v for k, v in memory()[0].items() if k.startswith("arena")]
assert abs(json.load(open("step.json"))["arena_bytes"] / arena[0] - 1) < 0.01, arena'

succeeds "a plan with larger micro-batches" "$celforge" train tiny.yaml --plan --set train.micro_batch=2
plan=two
cp out two
check "has twice the activations, and about the same FLOPs" '
from plan import *
larger, flops_larger = memory()[1], step_flops()
text = open("one", encoding="utf-8").read()
import plan; plan.text = text
assert plan.memory()[1] < larger < 2 * plan.memory()[1] and abs(flops_larger / plan.step_flops() - 1) < 0.05'
succeeds "a plan for two ranks" mpirun --oversubscribe -np 2 "$celforge" train tiny.yaml --plan
plan=ranks
cp out ranks
[ "$(grep -c '^memory of the device' out)" -eq 1 ]
result $? "is printed once"
check "has all-reduces, and half of the FLOPs per rank" '
import plan
from plan import *
assert "all_reduce" in text
half = step_flops()
plan.text = open("one", encoding="utf-8").read()
assert "all_reduce" not in plan.text and abs(2 * half / plan.step_flops() - 1) < 0.05, half'
refuses "a config that cannot be planned" 64 "train.micro_batch" "$celforge" train tiny.yaml --plan --set train.micro_batch=3
succeeds "a plan without a dataset" "$celforge" bench step tiny.yaml --frames 2 --size 32x32 --plan
plan=bench
cp out bench
check "has the same memory" '
import plan
from plan import *
mine = memory()[1]
plan.text = open("one", encoding="utf-8").read()
assert mine == plan.memory()[1], mine'

done_testing
