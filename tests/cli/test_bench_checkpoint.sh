#!/bin/bash
# celforge bench checkpoint: table, JSON, error messages; no temporary file is left in any case.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
cd "$work" || exit 1
tiny_config tiny.yaml data runs/tiny
mkdir room

is_empty() { # NAME FOLDER: the folder has no files, except ballast
  find "$2" -mindepth 1 -not -name ballast >left
  [ ! -s left ]
  result $? "$1"
  sed 's/^/# left: /' left
}

succeeds "bench checkpoint of a config" "$celforge" bench checkpoint tiny.yaml --dir room --rounds 3 --json numbers.json
prints "the table compares the copy with a plain one" "plain: memory to memory"
prints "the table compares the write with a plain one" "plain: one file and fsync"
prints "the table shows the time to resume" "resume: validate"
is_empty "bench checkpoint leaves no file" room
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
result $? "JSON: the files of a run's checkpoint; seconds and rates of eight parts"
rm -r runs
mkdir here
succeeds "bench checkpoint without --dir" "$celforge" bench checkpoint tiny.yaml --rounds 1 \
  --set run.dir=here/far/away --json numbers.json
grep -qF '"folder": "here"' numbers.json
result $? "without --dir it writes to the first existing folder above run.dir"
is_empty "without --dir it leaves no file" here

# Networks that are too deep for small clips: bench checkpoint runs no step, so it needs no clips.
large=(--dir room --rounds 1 --set model.generator=pix2pixhd --set model.temporal=none --set model.channels=4)
succeeds "a generator with seven downsamplings" "$celforge" bench checkpoint tiny.yaml "${large[@]}" --set model.downsamplings=6 \
  --set model.local_enhancers=1 --set model.blocks=1
succeeds "discriminators with many layers and scales" "$celforge" bench checkpoint tiny.yaml "${large[@]}" \
  --set model.downsamplings=1 --set loss.adversarial_weight=1 --set model.image_scales=4 --set model.image_layers=4 \
  --set model.video_layers=6 --set model.image_channels=4 --set model.video_channels=4

refuses "bench checkpoint without a config" 64 "PATH is missing; expected a config" "$celforge" bench checkpoint
refuses "a missing config" 74 "no.yaml" "$celforge" bench checkpoint no.yaml
refuses "an unknown key" 64 'did you mean "model.channels"' "$celforge" bench checkpoint tiny.yaml --set model.chanels=3
refuses "a missing folder" 74 "nowhere: no such folder" "$celforge" bench checkpoint tiny.yaml --dir nowhere
refuses "a file instead of a folder" 74 "tiny.yaml: no such folder" "$celforge" bench checkpoint tiny.yaml --dir tiny.yaml
refuses "zero rounds" 64 "--rounds" "$celforge" bench checkpoint tiny.yaml --dir room --rounds 0
refuses "an option of another benchmark" 64 "--threads" "$celforge" bench checkpoint tiny.yaml --threads 2
refuses "--json into a missing folder" 74 "no/numbers.json" \
  "$celforge" bench checkpoint tiny.yaml --dir room --rounds 1 --json no/numbers.json
is_empty "a refused benchmark leaves no file" room
if command -v mpirun >/dev/null; then
  run mpirun --oversubscribe -np 2 "$celforge" bench checkpoint tiny.yaml --dir room
  [ "$code" -ne 0 ] && grep -qF "start it without mpirun" err
  result $? "refuses to run on two ranks"
else
  skip "refuses to run on two ranks" "no mpirun"
fi

# Starts a long benchmark in FOLDER, waits until it writes, and sets $pid.
start_bench() { # FOLDER
  local tries=0
  "$celforge" bench checkpoint tiny.yaml --dir "$1" --rounds 1000 >out 2>err &
  pid=$!
  until compgen -G "$1/celforge-bench-*/step-*" >/dev/null || [ $((tries++)) -gt 400 ]; do sleep 0.05; done
}

start_bench room
kill -TERM $pid
wait $pid
[ $? -eq 75 ] && grep -qF "stopped by a signal" err
result $? "SIGTERM stops it with exit code 75"
is_empty "after SIGTERM no file is left" room

if mkdir small && mount -t tmpfs -o size=256k none small 2>mount; then
  mounts+=("$work/small")
  refuses "too little space" 74 "small: 3 checkpoints of this config need" "$celforge" bench checkpoint tiny.yaml --dir small
  [ "$(grep -c "256.0 KiB are free" err)" -eq 1 ]
  result $? "too little space: the message has the free space"
  is_empty "too little space: nothing is written" small
  mkdir filled && mount -t tmpfs -o size=8m none filled && mounts+=("$work/filled")
  start_bench filled
  head -c 16000000 /dev/zero >filled/ballast 2>/dev/null
  wait $pid
  [ $? -eq 74 ] && grep -qF "No space left on device" err
  result $? "a disk that fills up during the benchmark"
  is_empty "a disk that fills up: no file of the benchmark is left" filled
  rm filled/ballast
  mount -o remount,ro "$work/filled"
  refuses "a read-only folder" 74 "filled: cannot make a folder in it" \
    "$celforge" bench checkpoint tiny.yaml --dir filled
else
  skip "too little space" "tmpfs cannot be mounted: $(head -n 1 mount)"
fi
done_testing
