#!/bin/bash
# Files and disks that are not as they must be: a message that names them, an exit code, and nothing
# half-written.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
cd "$work" || exit 1

run "$celforge" synth data --clips 6 --frames 2 --size 32x32 --clips-per-shard 3
result $code "a dataset of two shards"
tiny_config tiny.yaml data run
run "$celforge" train tiny.yaml
result $code "a run on it"

# --- Shards ---------------------------------------------------------------------------------------
spoiled() { # a fresh copy of the dataset, to be spoiled
  rm -rf spoiled
  cp -r data spoiled
}
refused_everywhere() { # NAME MESSAGE
  local command
  for command in verify info; do
    refuses "$1: $command" 65 "$2" "$celforge" $command spoiled
  done
  refuses "$1: train" 65 "$2" "$celforge" train tiny.yaml --set data.path=spoiled --set run.dir=other
  nothing_left "$1: no run is made" other
  refuses "$1: eval" 65 "$2" "$celforge" eval --checkpoint run --data spoiled --json spoiled.json
  nothing_left "$1: no scores are written" spoiled.json
}
spoiled && rm spoiled/shard-00001.h5
refused_everywhere "a missing shard" "spoiled/shard-00001.h5"
spoiled && head -c "$(stat -c %s data/shard-00001.h5)" /dev/urandom >spoiled/shard-00001.h5
refused_everywhere "a foreign shard" "spoiled/shard-00001.h5"
spoiled && truncate -s -5000 spoiled/shard-00001.h5
refused_everywhere "a truncated shard" "spoiled/shard-00001.h5"
spoiled && rm spoiled/manifest.json
refused_everywhere "no manifest" "spoiled"
spoiled && echo '{"format": "something else"}' >spoiled/manifest.json
refused_everywhere "a foreign manifest" "spoiled/manifest.json"
spoiled && head -c 200 data/manifest.json >spoiled/manifest.json
refused_everywhere "a truncated manifest" "spoiled/manifest.json"

# One byte in the middle of the clips: only checksums can tell.
spoiled
python3 - spoiled/shard-00001.h5 <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as f:
    data = f.read()
    place = len(data) - 8000
    f.seek(place)
    f.write(bytes([data[place] ^ 0x40]))
PYTHON
refuses "a flipped byte: verify" 65 "checksums are wrong" "$celforge" verify spoiled
says "and names shard and clip" "spoiled/shard-00001.h5: clip 2"
refuses "a flipped byte: eval" 65 "spoiled/shard-00001.h5" \
  "$celforge" eval --checkpoint run --data spoiled --json spoiled.json
nothing_left "a flipped byte: no scores are written" spoiled.json
refuses "a flipped byte: train" 65 "spoiled/shard-00001.h5" \
  "$celforge" train tiny.yaml --set data.path=spoiled --set run.dir=other --set train.steps=12
rm -rf other
run "$celforge" train tiny.yaml --set data.path=spoiled --set run.dir=other --set train.steps=12 \
  --set data.on_corrupt=substitute
[ $code -eq 0 ] && grep -q 'shard-00001' err && tail -n 1 other/metrics.jsonl | grep -q '"corrupt": [1-9]'
result $? "a flipped byte: substituted when asked, named in the log, counted in the metrics"
rm -rf other

# --- Checkpoints ----------------------------------------------------------------------------------
cp -r run broken
printf 'x' | dd of=broken/checkpoints/step-00000004/generator.safetensors bs=1 seek=3000 conv=notrunc 2>dd
refuses "a flipped byte in a checkpoint given by name" 65 "step-00000004" \
  "$celforge" eval --checkpoint broken/checkpoints/step-00000004 --data data
run "$celforge" eval --checkpoint broken --data data
[ $code -eq 0 ] && grep -q 'step-00000004' err && grep -q 'step-00000002' out
result $? "a run whose newest checkpoint is bad: it is named, the one before is taken"
refuses "resuming from the bad one by name" 65 "step-00000004" \
  "$celforge" train tiny.yaml --set run.dir=other --resume broken/checkpoints/step-00000004
truncate -s 100 broken/checkpoints/step-00000002/manifest.json
refuses "a run whose checkpoints are all bad" 65 "broken/checkpoints" \
  "$celforge" eval --checkpoint broken --data data

# --- Videos ---------------------------------------------------------------------------------------
head -c 20000 /dev/urandom >noise.mp4
refuses "a video that is none: pack" 65 "noise.mp4" \
  "$celforge" pack packed --source noise.mp4 --target-filter negate
nothing_left "no dataset is made of it" packed/manifest.json packed/shard-00000.h5
refuses "a video that is none: translate" 65 "noise.mp4" \
  "$celforge" translate --checkpoint run noise.mp4 out.mp4
nothing_left "no video is made of it" out.mp4
refuses "a video that is not there" 74 "absent.mp4" \
  "$celforge" translate --checkpoint run absent.mp4 out.mp4
nothing_left "nothing is made of it" out.mp4
if command -v ffmpeg >/dev/null; then
  ffmpeg -v error -f lavfi -i testsrc=size=64x48:rate=25 -frames:v 20 -pix_fmt yuv420p long.mp4
  ffmpeg -v error -f lavfi -i testsrc=size=64x48:rate=25 -frames:v 13 -pix_fmt yuv420p short.mp4
  ffmpeg -v error -f lavfi -i testsrc=size=64x48:rate=30 -frames:v 20 -pix_fmt yuv420p fast.mp4
  refuses "a pair of different lengths" 65 "short.mp4" \
    "$celforge" pack packed --source long.mp4 --target short.mp4 --frames 4
  nothing_left "no dataset is made of it" packed/manifest.json
  rm -rf packed
  refuses "a pair of different rates" 65 "fast.mp4" \
    "$celforge" pack packed --source long.mp4 --target fast.mp4 --frames 4
  nothing_left "no dataset is made of it" packed/manifest.json
  rm -rf packed
  refuses "a video shorter than a clip" 65 "long.mp4" \
    "$celforge" pack packed --source long.mp4 --target-filter negate --frames 40
  rm -rf packed
  refuses "a filter that is none" 64 "no_such_filter" \
    "$celforge" pack packed --source long.mp4 --target-filter no_such_filter --frames 4
  rm -rf packed
  refuses "output over the input" 64 "is also an input" \
    "$celforge" translate --checkpoint run long.mp4 ./long.mp4
  refuses "a folder for a video" 64 "is a frame folder" \
    "$celforge" translate --checkpoint run long.mp4 frames
  refuses "an unknown codec" 64 "nosuchcodec" \
    "$celforge" translate --checkpoint run --codec nosuchcodec long.mp4 out.mp4
  nothing_left "no video is made of it" out.mp4
  run "$celforge" pack stacked --source long.mp4 --source long.mp4 --target-filter negate --frames 2
  result $code "pack stacks sources"
  run "$celforge" train tiny.yaml --set data.path=stacked --set run.dir=stacked-run --set train.steps=1
  result $code "a run on stacked sources"
  refuses "translate with a model of stacked sources" 64 "reads 2 inputs, but 1 is given; give the first as IN and each further one with --also PATH" \
    "$celforge" translate --checkpoint stacked-run long.mp4 out.mp4
  refuses "eval with clips of other channels" 64 "reads 6 source channels" \
    "$celforge" eval --checkpoint stacked-run --data data
  refuses "resuming on another dataset" 64 "resuming would mix them" \
    "$celforge" train tiny.yaml --set data.path=stacked --resume auto
else
  skip "pairs that do not fit" "no ffmpeg"
fi

# --- Disks ----------------------------------------------------------------------------------------
mkdir closed
if [ "$(id -u)" -ne 0 ]; then
  chmod 555 closed && may=1
elif mount -t tmpfs -o size=64k,ro none closed 2>mount; then
  mounts+=("$work/closed") && may=1
else
  may=0
fi
if [ $may -eq 1 ]; then
  refuses "a folder without permission: synth" 74 "closed/data" "$celforge" synth closed/data --clips 2
  refuses "a folder without permission: train" 74 "closed/run" \
    "$celforge" train tiny.yaml --set run.dir=closed/run
  refuses "a folder without permission: eval --json" 74 "closed/scores.json" \
    "$celforge" eval --checkpoint run --data data --json closed/scores.json
  if [ -e long.mp4 ]; then
    refuses "a folder without permission: translate" 74 "closed/out.mp4" \
      "$celforge" translate --checkpoint run long.mp4 closed/out.mp4
  fi
else
  skip "a folder without permission" "root may write anywhere, and no mount: $(head -n 1 mount)"
fi

mkdir small
if mount -t tmpfs -o size=256k none small 2>mount; then
  mounts+=("$work/small")
  refuses "a full disk: synth" 74 "No space left" \
    "$celforge" synth small/data --clips 64 --frames 4 --size 64x64
  nothing_left "no manifest, no whole shard" small/data/manifest.json small/data/shard-00000.h5
  rm -rf small/*
  head -c 180000 /dev/zero >small/ballast
  refuses "a full disk: train" 74 "No space left" "$celforge" train tiny.yaml --set run.dir=small/run
  run find small/run/checkpoints -maxdepth 1 -name 'step-*' ! -name '*.tmp'
  [ ! -s out ]
  result $? "no checkpoint under a final name"
  rm -rf small/run
  if [ -e long.mp4 ]; then
    head -c 80000 /dev/zero >>small/ballast
    refuses "a full disk: translate" 74 "small/out.mp4" \
      "$celforge" translate --checkpoint run --quality 0 long.mp4 small/out.mp4
    nothing_left "no video under a final name" small/out.mp4
  fi
  head -c 300000 /dev/zero >small/ballast 2>dd
  refuses "a full disk: eval --json" 74 "No space left" \
    "$celforge" eval --checkpoint run --data data --json small/scores.json
  nothing_left "no scores" small/scores.json
else
  skip "a full disk" "tmpfs cannot be mounted: $(head -n 1 mount)"
fi
done_testing
