#!/bin/bash
# bench checkpoint from the command line: its table, its JSON, what it refuses, and that nothing is ever left.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
cd "$work" || exit 1
tiny_config tiny.yaml data runs/tiny
mkdir room

empty() { # NAME FOLDER
  find "$2" -mindepth 1 -not -name ballast >left
  [ ! -s left ]
  result $? "$1"
  sed 's/^/# left: /' left
}

succeeds "a config" "$celforge" bench checkpoint tiny.yaml --dir room --rounds 3 --json numbers.json
says "the stall beside a plain copy" "plain: memory to memory"
says "the write" "plain: one file and fsync"
says "and resuming" "resuming: validate"
empty "leaves nothing" room
"$celforge" synth data --clips 2 --frames 2 --size 32x32 >synth 2>&1
run "$celforge" train tiny.yaml --set train.steps=1
python3 - <<'PYTHON' >out 2>err
import json
import os
found = json.load(open("numbers.json"))
folder = "runs/tiny/checkpoints/step-00000001"
for name in ("generator.safetensors", "optimizer.safetensors"):
    assert found["files"][name] == os.path.getsize(f"{folder}/{name}"), name
assert sorted(found["files"]) == [name for name in sorted(os.listdir(folder)) if "safetensors" in name], found["files"]
assert found["bytes"] == sum(found["files"].values()) and found["rounds"] == 3 and found["folder"] == "room"
for key in ("copy", "hand_over", "write", "validate", "restore", "plain_copy", "plain_write", "plain_read"):
    seconds, rate = found[f"{key}_seconds"], found[f"{key}_gb_per_second"]
    assert 0 < seconds < 60 and abs(rate * seconds * 1e9 / found["bytes"] - 1) < 1e-9, key
PYTHON
result $? "numbers.json: the files of a run's checkpoint, seconds and rates of eight parts"
rm -r runs
mkdir here
succeeds "without --dir" "$celforge" bench checkpoint tiny.yaml --rounds 1 --set run.dir=here/far/away --json numbers.json
grep -qF '"folder": "here"' numbers.json
result $? "it is done where the run would lie"
empty "and nothing is left there" here

# Networks that small clips have no room for.
large=(--dir room --rounds 1 --set model.generator=pix2pixhd --set model.temporal=none --set model.channels=4)
succeeds "a generator of seven halvings" "$celforge" bench checkpoint tiny.yaml "${large[@]}" --set model.downsamplings=6 \
  --set model.local_enhancers=1 --set model.blocks=1
succeeds "discriminators of many layers and scales" "$celforge" bench checkpoint tiny.yaml "${large[@]}" \
  --set model.downsamplings=1 --set loss.adversarial_weight=1 --set model.image_scales=4 --set model.image_layers=4 \
  --set model.video_layers=6 --set model.image_channels=4 --set model.video_channels=4

refuses "no config" 64 "PATH is missing: a config" "$celforge" bench checkpoint
refuses "a config that is not there" 74 "no.yaml" "$celforge" bench checkpoint no.yaml
refuses "a key that is none" 64 'did you mean "model.channels"' "$celforge" bench checkpoint tiny.yaml --set model.chanels=3
refuses "a folder that is not there" 74 "nowhere: no such folder" "$celforge" bench checkpoint tiny.yaml --dir nowhere
refuses "a file for a folder" 74 "tiny.yaml: no such folder" "$celforge" bench checkpoint tiny.yaml --dir tiny.yaml
refuses "no rounds" 64 "--rounds" "$celforge" bench checkpoint tiny.yaml --dir room --rounds 0
refuses "an option of another bench" 64 "--threads" "$celforge" bench checkpoint tiny.yaml --threads 2
refuses "numbers into a folder that is not there" 74 "no/numbers.json" \
  "$celforge" bench checkpoint tiny.yaml --dir room --rounds 1 --json no/numbers.json
empty "which leaves nothing either" room
if command -v mpirun >/dev/null; then
  run mpirun --oversubscribe -np 2 "$celforge" bench checkpoint tiny.yaml --dir room
  [ "$code" -ne 0 ] && grep -qF "start it without mpirun" err
  result $? "two ranks are one too many"
else
  skip "two ranks" "no mpirun"
fi

# A long bench in FOLDER that has begun to write; leaves $pid.
begin() { # FOLDER
  local tries=0
  "$celforge" bench checkpoint tiny.yaml --dir "$1" --rounds 1000 >out 2>err &
  pid=$!
  until compgen -G "$1/celforge-bench-*/step-*" >/dev/null || [ $((tries++)) -gt 400 ]; do sleep 0.05; done
}

begin room
kill -TERM $pid
wait $pid
[ $? -eq 75 ] && grep -qF "stopped by a signal" err
result $? "a signal ends it"
empty "and nothing is left" room

if mkdir small && mount -t tmpfs -o size=256k none small 2>mount; then
  mounts+=("$work/small")
  refuses "too little room" 74 "small: 3 checkpoints of this config need" "$celforge" bench checkpoint tiny.yaml --dir small
  says_room=$(grep -c "256.0 KiB are free there" err)
  [ "$says_room" -eq 1 ]
  result $? "and how much there is"
  empty "finds out before it writes" small
  mkdir filled && mount -t tmpfs -o size=8m none filled && mounts+=("$work/filled")
  begin filled
  head -c 16000000 /dev/zero >filled/ballast 2>/dev/null
  wait $pid
  [ $? -eq 74 ] && grep -qF "No space left on device" err
  result $? "a disk that fills up meanwhile"
  empty "is left with what else was there" filled
  rm filled/ballast
  mount -o remount,ro "$work/filled"
  refuses "a folder without permission" 74 "filled: cannot make a folder in it" \
    "$celforge" bench checkpoint tiny.yaml --dir filled
else
  skip "too little room" "no mount: $(head -n 1 mount)"
fi
done_testing
