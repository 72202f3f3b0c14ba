#!/bin/bash
# Runs that a group shares: every file and folder that celforge creates honours the umask, and a run that one user has
# created is continued by another of the group. The users exist only as numbers, so the second part needs root.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
cd "$work" || exit 1
chmod 755 "$work"

group=(setpriv --regid 4100 --clear-groups)
room=(env HOME="$work" TMPDIR="$work/shared/tmp")
first=() second=()

none() { # NAME FIND-ARGUMENTS...: find prints nothing
  local name=$1
  shift
  find "$@" -printf '%M %u %p\n' >"$work/out" 2>"$work/err"
  [ ! -s "$work/out" ] && [ ! -s "$work/err" ]
  result $? "$name"
}

mkdir shared && mkdir -m 1777 shared/tmp
if [ "$(id -u)" -eq 0 ] && chgrp 4100 shared && chmod 2775 shared &&
  "${group[@]}" --reuid 4001 "${room[@]}" "$celforge" --version >/dev/null 2>&1; then
  first=("${group[@]}" --reuid 4001 "${room[@]}")
  second=("${group[@]}" --reuid 4002 "${room[@]}")
fi

# --- umask 002 ------------------------------------------------------------------------------------
umask 002
cd shared || exit 1
tiny_config tiny.yaml data run
sed -i 's/every: 0/every: 2/' tiny.yaml
succeeds "synth" "${first[@]}" "$celforge" synth data --clips 4 --frames 2 --size 32x32
mkdir parts # a subfolder of the group's folder
[ ${#first[@]} -eq 0 ] || chgrp 4100 parts
succeeds "synth of a part" "${first[@]}" "$celforge" synth parts/a --clips 4 --frames 2 --size 32x32
succeeds "join" "${first[@]}" "$celforge" join joined parts
succeeds "train" "${first[@]}" "$celforge" train tiny.yaml --set metrics.tensorboard=true
succeeds "export a model" "${first[@]}" "$celforge" export --checkpoint run --format model look.safetensors
succeeds "export safetensors" "${first[@]}" "$celforge" export --checkpoint run --format safetensors export.safetensors
succeeds "export onnx" "${first[@]}" "$celforge" export --checkpoint run --format onnx export.onnx
succeeds "eval" "${first[@]}" "$celforge" eval --checkpoint run --data data --no-classifier --json scores.json
if "${first[@]}" "$celforge" synth scene.mp4 --frames 4 --size 32x32 >"$work/out" 2>"$work/err"; then
  succeeds "translate a video" "${first[@]}" "$celforge" translate --checkpoint run scene.mp4 translated.mp4
  succeeds "pack" "${first[@]}" "$celforge" pack packed --source scene.mp4 --target scene.mp4 --frames 2
fi
none "umask 002: the group can write every file" . -path ./tmp -prune -o -type f ! -perm -0660
none "umask 002: the group can write every folder" . -path ./tmp -prune -o -type d ! -perm -0770

if [ ${#second[@]} -gt 0 ]; then
  succeeds "another user of the group continues the run" "${second[@]}" "$celforge" train tiny.yaml --resume auto --set train.steps=12
  grep -q "resuming from run/checkpoints/step-00000004" "$work/err"
  result $? "from the first user's last checkpoint"
  find run/checkpoints -mindepth 1 -maxdepth 1 -name 'step-*' -user 4001 -printf '%p\n' >"$work/out"
  grep -qv step-00000004 "$work/out"
  result $((! $?)) "of the first user's checkpoints only the one resumed from is kept"
  succeeds "the first user continues" "${first[@]}" "$celforge" train tiny.yaml --resume auto --set train.steps=16
  none "both users' files can be written by the group" run -type f ! -perm -0660
  succeeds "another user overwrites an export" "${second[@]}" "$celforge" export --checkpoint run --format onnx export.onnx
else
  skip "another user of the group continues the run" "needs root, and a program that other users can execute"
fi

# --- umask 077 ------------------------------------------------------------------------------------
umask 077
mkdir ../own && cd ../own || exit 1
tiny_config tiny.yaml ../shared/data run
succeeds "umask 077: train" "$celforge" train tiny.yaml
succeeds "umask 077: export" "$celforge" export --checkpoint run --format onnx export.onnx
none "umask 077: nobody else can read anything" . -perm /077
done_testing
