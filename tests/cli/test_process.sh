#!/bin/bash
# The environment of the process: closed standard streams, OMP_NUM_THREADS, a limit of file sizes, a log without a reader,
# a lost terminal, and stop signals in the commands that write datasets and videos.
# tests/run: mostly waits
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
cd "$work" || exit 1

run "$celforge" synth data --clips 4 --frames 2 --size 32x32
tiny_config tiny.yaml data run
run "$celforge" train tiny.yaml
result $code "train: a run to translate with"

# --- Closed standard streams -------------------------------------------------------------------------------
closed() { # NAME COMMAND...: succeeds with all three streams closed
  local name=$1
  shift
  timeout -k 5 400 "$@" <&- >&- 2>&-
  code=$?
  result $code "$name"
}
mkdir frames
run "$celforge" synth live.mp4 --frames 6 --size 64x48
if [ "$code" -eq 0 ]; then
  run "$celforge" translate --checkpoint run live.mp4 expected.mp4
  closed "closed streams: translate succeeds" "$celforge" translate --checkpoint run live.mp4 found.mp4
  cmp expected.mp4 found.mp4
  result $? "closed streams: the video is the same, without text of the log"
else
  skip "closed streams: translate" "this build has no FFmpeg"
fi
tiny_config closed.yaml data closed
closed "closed streams: train succeeds" "$celforge" train closed.yaml
cmp run/checkpoints/step-00000004/optimizer.safetensors closed/checkpoints/step-00000004/optimizer.safetensors
result $? "closed streams: the checkpoint is the same"
cmp <(grep -o '"step": [0-9]*' run/metrics.jsonl) <(grep -o '"step": [0-9]*' closed/metrics.jsonl) &&
  ! grep -qv '^{"step": .*}$' closed/metrics.jsonl
result $? "closed streams: the metrics hold metrics alone"

# --- OMP_NUM_THREADS ---------------------------------------------------------------------------------------
OMP_NUM_THREADS=many refuses "OMP_NUM_THREADS=many is refused" 64 'OMP_NUM_THREADS: "many" in the environment' \
  "$celforge" config --check tiny.yaml
tiny_config threads.yaml data threads
OMP_NUM_THREADS=100000 succeeds "OMP_NUM_THREADS=100000 is bounded" "$celforge" train threads.yaml
grep -q "warning: OMP_NUM_THREADS is 100000, but at most" err
result $? "OMP_NUM_THREADS=100000: a warning says so"
if [ "$(getconf _NPROCESSORS_ONLN)" -le 64 ]; then
  refuses "train.threads=1024 is refused" 64 "1024 compute threads" \
    "$celforge" train tiny.yaml --set train.threads=1024 --set run.dir=many
fi

# --- A limit of file sizes ---------------------------------------------------------------------------------
limited=(bash -c 'ulimit -f 8; exec "$@"' limited) # files of at most 8 KiB
refuses "file size limit: synth" 74 "File too large" "${limited[@]}" "$celforge" synth large --clips 16 --frames 4 --size 64x64
nothing_left "file size limit: synth leaves nothing" large
tiny_config limited.yaml data limited
refuses "file size limit: train" 74 "File too large" "${limited[@]}" "$celforge" train limited.yaml
refuses "file size limit: export" 74 "File too large" "${limited[@]}" "$celforge" export --checkpoint run --format onnx model.onnx
nothing_left "file size limit: export leaves nothing" model.onnx

# --- A log without a reader, and a lost terminal -----------------------------------------------------------
last_step() { # RUN: prints the step of the last line of the metrics
  tail -n 1 "$1/metrics.jsonl" | grep -o '"step": [0-9]*' | grep -o '[0-9]*'
}
saved() { # NAME RUN: the exit code is 75, and the newest checkpoint has the last step of the metrics
  local newest
  newest=$(cat "$2/checkpoints/latest")
  [ "$code" -eq 75 ] && [ "$((10#${newest#step-}))" -eq "$(last_step "$2")" ]
  result $? "$1"
  echo "# exit code $code, checkpoint $newest, metrics up to step $(last_step "$2")"
}
tiny_config endless.yaml data pipe
endless=("$celforge" train endless.yaml --set train.steps=1000000 --set checkpoint.every=0 --set samples.every=0)
# The reader ends with the first line of the training loop; the log of the stop meets the closed pipe, too.
{ timeout -k 5 400 "${endless[@]}" 2>&1 >out; echo $? >code; } | grep -q -m 1 "training on"
code=$(cat code)
saved "nobody reads the log: train saves a checkpoint and exits with 75" pipe
timeout -k 5 400 "${endless[@]}" --set run.dir=hangup >out 2>err &
training=$!
while ! [ -s hangup/metrics.jsonl ] && kill -0 $training; do sleep 0.05; done
pkill -HUP -P $training
wait $training
code=$?
saved "HUP: train saves a checkpoint and exits with 75" hangup
succeeds "HUP: and continues" "$celforge" train endless.yaml --set run.dir=hangup --resume auto \
  --set train.steps=$(($(last_step hangup) + 2))

# --- Commands that write datasets --------------------------------------------------------------------------
stopped() { # NAME SIGNAL COMMAND...: the signal comes with the first progress, and the exit code is 75
  local name=$1 number=$2 working
  shift 2
  timeout -k 5 400 "$@" >out 2>err &
  working=$!
  while ! grep -q 'clips\|frames' err && kill -0 $working 2>/dev/null; do sleep 0.02; done
  pkill "-$number" -P $working
  wait $working
  code=$?
  [ "$code" -eq 75 ] && grep -q '^celforge: .*stopped by a signal' err
  result $? "$name"
}
mkdir undisturbed stopped
synth=("$celforge" synth data --clips 120 --frames 8 --size 96x96 --clips-per-shard 2)
cd undisturbed && succeeds "synth: without a signal" "${synth[@]}"
cd ../stopped || exit 1
for number in HUP TERM; do
  stopped "synth: $number ends it with 75" $number "${synth[@]}"
  ! compgen -G "data/*.tmp" >/dev/null && [ "$(find data -name 'shard-*.h5' | wc -l)" -lt 60 ] && ! [ -e data/manifest.json ]
  result $? "synth: $number leaves complete shards alone"
done
succeeds "synth: the same command continues" "${synth[@]}"
cd ..
cmp <(cd undisturbed/data && cksum -- *) <(cd stopped/data && cksum -- *)
result $? "synth: and ends with the same bytes"

done_testing
