#!/bin/bash
# Damaged or missing files, full disks and missing permissions: the message names the file, the exit code tells the kind of
# error, and no incomplete file is left.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
cd "$work" || exit 1

run "$celforge" synth data --clips 6 --frames 2 --size 32x32 --clips-per-shard 3
result $code "synth: a dataset of two shards"
tiny_config tiny.yaml data run
run "$celforge" train tiny.yaml
result $code "train: a run on this dataset"

# --- Shards ---------------------------------------------------------------------------------------
copy_dataset() { # makes a new copy of the dataset in the folder damaged
  rm -rf damaged
  cp -r data damaged
}
all_commands_refuse() { # NAME MESSAGE: all commands that read the dataset
  local command
  for command in verify info; do
    refuses "$1: $command" 65 "$2" "$celforge" $command damaged
  done
  refuses "$1: train" 65 "$2" "$celforge" train tiny.yaml --set data.path=damaged --set run.dir=other
  nothing_left "$1: train creates no run folder" other
  refuses "$1: eval" 65 "$2" "$celforge" eval --checkpoint run --data damaged --json damaged.json
  nothing_left "$1: eval writes no scores" damaged.json
}
copy_dataset && rm damaged/shard-00001.h5
all_commands_refuse "a missing shard" "damaged/shard-00001.h5"
copy_dataset && head -c "$(stat -c %s data/shard-00001.h5)" /dev/urandom >damaged/shard-00001.h5
all_commands_refuse "a shard that is not HDF5" "damaged/shard-00001.h5"
copy_dataset && truncate -s -5000 damaged/shard-00001.h5
all_commands_refuse "a truncated shard" "damaged/shard-00001.h5"
copy_dataset && rm damaged/manifest.json
all_commands_refuse "a missing manifest" "damaged"
copy_dataset && echo '{"format": "something else"}' >damaged/manifest.json
all_commands_refuse "a manifest of another format" "damaged/manifest.json"
copy_dataset && head -c 200 data/manifest.json >damaged/manifest.json
all_commands_refuse "a truncated manifest" "damaged/manifest.json"

# A flipped bit in the middle of the clips, which only the checksums detect.
copy_dataset
python3 - damaged/shard-00001.h5 <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as f:
    data = f.read()
    offset = len(data) - 8000
    f.seek(offset)
    f.write(bytes([data[offset] ^ 0x40]))
PYTHON
refuses "a flipped byte: verify" 65 "checksums are wrong" "$celforge" verify damaged
prints "a flipped byte: verify names shard and clip" "damaged/shard-00001.h5: clip 2"
refuses "a flipped byte: eval" 65 "damaged/shard-00001.h5" \
  "$celforge" eval --checkpoint run --data damaged --json damaged.json
nothing_left "a flipped byte: eval writes no scores" damaged.json
refuses "a flipped byte: train" 65 "damaged/shard-00001.h5" \
  "$celforge" train tiny.yaml --set data.path=damaged --set run.dir=other --set train.steps=12
rm -rf other
run "$celforge" train tiny.yaml --set data.path=damaged --set run.dir=other --set train.steps=12 \
  --set data.on_corrupt=substitute
[ $code -eq 0 ] && grep -q 'shard-00001' err && tail -n 1 other/metrics.jsonl | grep -q '"corrupt": [1-9]'
result $? "a flipped byte, data.on_corrupt=substitute: train logs the shard and counts the clip in the metrics"
rm -rf other

# --- Checkpoints ----------------------------------------------------------------------------------
cp -r run broken
printf 'x' | dd of=broken/checkpoints/step-00000004/generator.safetensors bs=1 seek=3000 conv=notrunc 2>dd
refuses "eval: a checkpoint with a flipped byte" 65 "step-00000004" \
  "$celforge" eval --checkpoint broken/checkpoints/step-00000004 --data data
refuses "eval: the newest checkpoint of a run is damaged" 65 "--allow-older takes the newest whole one" \
  "$celforge" eval --checkpoint broken --data data --no-classifier
run "$celforge" eval --checkpoint broken --data data --no-classifier --allow-older
[ $code -eq 0 ] && grep -q 'step-00000004' err && grep -q 'step-00000002' out
result $? "eval --allow-older: the damaged one is reported and the previous one is used"
refuses "eval: missing weights for KID and FID" 74 "--inception: absent.safetensors: cannot open" \
  "$celforge" eval --checkpoint run --data data --inception absent.safetensors --json scores.json
refuses "eval: missing weights for LPIPS" 74 "--lpips: absent.safetensors: cannot open" \
  "$celforge" eval --checkpoint run --data data --lpips absent.safetensors --json scores.json
other=run/checkpoints/step-00000004/generator.safetensors
refuses "eval: weights of another network for KID and FID" 65 \
  "--inception: $other: tensor \"Conv2d_1a_3x3.conv.weight\" is missing, expected [32, 3, 3, 3]" \
  "$celforge" eval --checkpoint run --data data --inception $other --json scores.json
refuses "eval: weights of another network for LPIPS" 65 "--lpips: $other: it holds neither \"net.slice2.3.weight\"" \
  "$celforge" eval --checkpoint run --data data --lpips $other --json scores.json
nothing_left "eval writes no scores without the weights" scores.json
refuses "train --resume: a damaged checkpoint" 65 "step-00000004" \
  "$celforge" train tiny.yaml --set run.dir=other --resume broken/checkpoints/step-00000004
truncate -s 100 broken/checkpoints/step-00000002/manifest.json
refuses "eval: a run with only damaged checkpoints" 65 "broken/checkpoints" \
  "$celforge" eval --checkpoint broken --data data

# --- Videos ---------------------------------------------------------------------------------------
head -c 20000 /dev/urandom >noise.mp4
refuses "pack: a file that is not a video" 65 "noise.mp4" \
  "$celforge" pack packed --source noise.mp4 --target-filter negate
nothing_left "pack creates no dataset from it" packed/manifest.json packed/shard-00000.h5
refuses "translate: a file that is not a video" 65 "noise.mp4" \
  "$celforge" translate --checkpoint run noise.mp4 out.mp4
nothing_left "translate writes no video from it" out.mp4
refuses "translate: a missing video" 74 "absent.mp4" \
  "$celforge" translate --checkpoint run absent.mp4 out.mp4
nothing_left "translate writes no video from a missing one" out.mp4
if command -v ffmpeg >/dev/null; then
  ffmpeg -v error -f lavfi -i testsrc=size=64x48:rate=25 -frames:v 20 -pix_fmt yuv420p long.mp4
  ffmpeg -v error -f lavfi -i testsrc=size=64x48:rate=25 -frames:v 13 -pix_fmt yuv420p short.mp4
  ffmpeg -v error -f lavfi -i testsrc=size=64x48:rate=30 -frames:v 20 -pix_fmt yuv420p fast.mp4
  refuses "pack: source and target of different lengths" 65 "short.mp4" \
    "$celforge" pack packed --source long.mp4 --target short.mp4 --frames 4
  nothing_left "pack creates no dataset from different lengths" packed/manifest.json
  rm -rf packed
  refuses "pack: source and target of different frame rates" 65 "fast.mp4" \
    "$celforge" pack packed --source long.mp4 --target fast.mp4 --frames 4
  nothing_left "pack creates no dataset from different frame rates" packed/manifest.json
  rm -rf packed
  refuses "pack: a video shorter than a clip" 65 "long.mp4" \
    "$celforge" pack packed --source long.mp4 --target-filter negate --frames 40
  rm -rf packed
  refuses "pack: a missing video after a good one" 74 "absent.mp4: no such file or folder" \
    "$celforge" pack packed --source long.mp4 --source absent.mp4 --frames 4
  nothing_left "pack creates no dataset if one of several videos is missing" packed
  refuses "pack: a missing target" 74 "absent.mp4: no such file or folder" \
    "$celforge" pack packed --target absent.mp4
  refuses "pack: pairs of different frame rates" 65 "fast.mp4 has 30/1, the videos before it have 25/1" \
    "$celforge" pack packed --source long.mp4 --source fast.mp4 --look comic --frames 4
  refuses "pack: a further input of another length" 65 "the inputs differ in length: " \
    "$celforge" pack packed --source long.mp4 --also short.mp4 --frames 4
  nothing_left "pack creates no dataset from inputs of different lengths" packed/manifest.json
  rm -rf packed
  ffmpeg -v error -f lavfi -i color=black:size=64x48:rate=25 -frames:v 20 -pix_fmt yuv420p black.mp4
  refuses "pack: nothing but black frames" 65 "20 black or blank frames dropped; a clip needs 4 in one scene (--frames); \
make shorter clips, or drop less: --detect cuts,titles,duplicates" "$celforge" pack packed --source black.mp4 --frames 4
  nothing_left "pack creates no dataset from black frames" packed/manifest.json
  rm -rf packed
  ffmpeg -v error -f lavfi -i testsrc=size=64x48:rate=25 -vf loop=19:1 -frames:v 20 -c:v ffv1 still.mkv
  refuses "pack: nothing but duplicates" 65 "19 duplicates dropped; a clip needs 4 (--frames); \
make shorter clips, or drop less: --detect cuts,black,titles" "$celforge" pack packed --target still.mkv --frames 4
  rm -rf packed
  run "$celforge" pack packed --target still.mkv --target long.mp4 --frames 4
  [ $code -eq 0 ] && grep -qF 'still.mkv: 20 frames; 19 duplicates dropped; 0 clips of 4 frames; 1 frame unused' err
  result $? "pack: the log says what was dropped of each video"
  rm -rf packed
  refuses "pack: an unknown filter" 64 "no_such_filter" \
    "$celforge" pack packed --source long.mp4 --target-filter no_such_filter --frames 4
  rm -rf packed
  refuses "translate: the input as output" 64 "is also an input" \
    "$celforge" translate --checkpoint run long.mp4 ./long.mp4
  refuses "translate: a frame folder as output for a video" 64 "is a frame folder" \
    "$celforge" translate --checkpoint run long.mp4 frames
  refuses "translate: an unknown codec" 64 "nosuchcodec" \
    "$celforge" translate --checkpoint run --codec nosuchcodec long.mp4 out.mp4
  nothing_left "translate writes no video with an unknown codec" out.mp4
  run "$celforge" pack stacked --source long.mp4 --also long.mp4 --target-filter negate --frames 2
  result $code "pack: two inputs"
  run "$celforge" train tiny.yaml --set data.path=stacked --set run.dir=stacked-run --set train.steps=1
  result $code "train: a run on two sources"
  refuses "translate: one video for a model with two sources" 64 \
    "reads 2 inputs, but 1 is given; give the first as IN and each further one with --also PATH" \
    "$celforge" translate --checkpoint stacked-run long.mp4 out.mp4
  refuses "eval: clips with fewer source channels than the model" 64 "reads 6 source channels" \
    "$celforge" eval --checkpoint stacked-run --data data
  refuses "train --resume: another dataset" 64 "resuming would mix them" \
    "$celforge" train tiny.yaml --set data.path=stacked --resume auto
else
  skip "videos that do not match" "no ffmpeg"
fi

# --- Unpaired data --------------------------------------------------------------------------------
cat >unpaired.yaml <<CONFIG
run: {dir: other}
data: {path: data, target_path: cartoons}
model: {channels: 4, blocks: 1, image_channels: 4, image_layers: 1, image_scales: 1, video: false, conditional: false}
loss: {l1: 0, temporal: 0, patch_nce: 1}
train: {steps: 2, global_batch: 2}
samples: {every: 0}
CONFIG
unpaired_refused() { # NAME CODE MESSAGE KEY=VALUE...: training on unpaired data with these settings
  local name=$1 code=$2 message=$3 settings=() pair
  shift 3
  for pair; do settings+=(--set "$pair"); done
  refuses "$name" "$code" "$message" "$celforge" train unpaired.yaml "${settings[@]}"
  nothing_left "$name: train creates no run folder" other
}
run "$celforge" synth cartoons --clips 3 --frames 2 --size 32x32 --seed 2
run "$celforge" synth wide --clips 3 --frames 3 --size 48x32 --seed 2
run "$celforge" train unpaired.yaml
result $code "train: unpaired data"
refuses "unpaired: resumed with other targets" 64 "but wide holds dataset" \
  "$celforge" train unpaired.yaml --set data.target_path=wide --set data.crop_height=32 --set data.crop_width=32 --resume auto
rm -rf other
unpaired_refused "unpaired: missing targets" 65 "absent" data.target_path=absent
unpaired_refused "unpaired: missing sources" 65 "absent" data.path=absent
unpaired_refused "unpaired: other sizes without a crop" 64 \
  "the sources of data are 32x32, the targets of wide 48x32: set data.crop_height and data.crop_width" data.target_path=wide
unpaired_refused "unpaired: a crop larger than one side" 64 "wide: " data.path=wide data.target_path=data \
  data.crop_height=40 data.crop_width=40
unpaired_refused "unpaired: more frames than one side has" 64 "cartoons: " data.path=wide data.frames=3 \
  data.crop_height=32 data.crop_width=32
unpaired_refused "unpaired: a loss against the own target" 64 "loss.l1" loss.l1=1
unpaired_refused "unpaired: discriminators that see the source" 64 "model.conditional" model.conditional=true
unpaired_refused "unpaired: content without weights" 64 "loss.perceptual_weights, a safetensors file" loss.content=1
unpaired_refused "unpaired: missing weights" 74 "absent.safetensors: cannot open" loss.content=1 \
  loss.perceptual_weights=absent.safetensors
if [ -e long.mp4 ]; then
  run "$celforge" pack sources --source long.mp4 --frames 4
  result $code "pack: sources alone"
  run "$celforge" pack targets --target long.mp4 --frames 4
  result $code "pack: targets alone"
  refuses "sources alone where pairs are needed: train" 64 "has sources only, but no data.target_path is set: pack pairs, or" \
    "$celforge" train tiny.yaml --set data.path=sources --set run.dir=other
  refuses "targets alone where pairs are needed: train" 64 "has no sources, only targets: set data.path to" \
    "$celforge" train tiny.yaml --set data.path=targets --set run.dir=other
  unpaired_refused "unpaired: targets as sources" 64 "targets has no sources, only targets" data.path=targets
  unpaired_refused "unpaired: sources as targets" 64 "sources has no targets, only sources" data.target_path=sources
  run "$celforge" train unpaired.yaml --set data.path=sources --set data.target_path=targets
  result $code "train: sources alone and targets alone"
  rm -rf other
fi

# --- Disks ----------------------------------------------------------------------------------------
mkdir closed
if [ "$(id -u)" -ne 0 ]; then
  chmod 555 closed && read_only=1
elif mount -t tmpfs -o size=64k,ro none closed 2>mount; then
  mounts+=("$work/closed") && read_only=1
else
  read_only=0
fi
if [ $read_only -eq 1 ]; then
  refuses "a read-only folder: synth" 74 "closed/data" "$celforge" synth closed/data --clips 2
  refuses "a read-only folder: train" 74 "closed/run" \
    "$celforge" train tiny.yaml --set run.dir=closed/run
  refuses "a read-only folder: eval --json" 74 "closed/scores.json" \
    "$celforge" eval --checkpoint run --data data --no-classifier --json closed/scores.json
  if [ -e long.mp4 ]; then
    refuses "a read-only folder: translate" 74 "closed/out.mp4" \
      "$celforge" translate --checkpoint run long.mp4 closed/out.mp4
  fi
else
  skip "a read-only folder" "root can write to all folders, and tmpfs cannot be mounted: $(head -n 1 mount)"
fi

mkdir small
if mount -t tmpfs -o size=256k none small 2>mount; then
  mounts+=("$work/small")
  refuses "a full disk: synth" 74 "No space left" \
    "$celforge" synth small/data --clips 64 --frames 4 --size 64x64
  nothing_left "a full disk: synth leaves neither a manifest nor a shard" small/data/manifest.json small/data/shard-00000.h5
  rm -rf small/*
  head -c 180000 /dev/zero >small/ballast
  refuses "a full disk: train" 74 "No space left" "$celforge" train tiny.yaml --set run.dir=small/run
  run find small/run/checkpoints -maxdepth 1 -name 'step-*' ! -name '*.tmp'
  [ ! -s out ]
  result $? "a full disk: train leaves no incomplete checkpoint under a final name"
  rm -rf small/run
  if [ -e long.mp4 ]; then
    head -c 80000 /dev/zero >>small/ballast
    refuses "a full disk: translate" 74 "small/out.mp4" \
      "$celforge" translate --checkpoint run --quality 0 long.mp4 small/out.mp4
    nothing_left "a full disk: translate leaves no video" small/out.mp4
  fi
  head -c 300000 /dev/zero >small/ballast 2>dd
  refuses "a full disk: eval --json" 74 "No space left" \
    "$celforge" eval --checkpoint run --data data --no-classifier --json small/scores.json
  nothing_left "a full disk: eval leaves no scores" small/scores.json
else
  skip "a full disk" "tmpfs cannot be mounted: $(head -n 1 mount)"
fi
done_testing
