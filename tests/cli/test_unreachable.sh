#!/bin/bash
# Paths that cannot be looked up, and damaged checkpoints: nothing is taken for absent, no run starts over, and no command uses
# an older checkpoint unasked. A symbolic link to itself stands for a file system that does not answer: stat fails, with ELOOP.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
tests=$PWD/tests
cd "$work" || exit 1
unanswered="cannot be looked up: Too many levels of symbolic links"

hide() { # PATH: as if its file system did not answer
  mv "$1" "$1.hidden" && ln -s "$(basename "$1")" "$1"
}
show() { # PATH
  rm "$1" && mv "$1.hidden" "$1"
}

succeeds "synth" "$celforge" synth data --clips 4 --frames 2 --size 32x32
tiny_config tiny.yaml data run
succeeds "train" "$celforge" train tiny.yaml
train=("$celforge" train tiny.yaml --set train.steps=8)
find run -name metrics.jsonl -exec cat {} + >metrics

# --- Look-ups that fail ---------------------------------------------------------------------------
hide run/checkpoints
refuses "export: checkpoints/ cannot be reached" 74 "run/checkpoints: $unanswered" \
  "$celforge" export --checkpoint run --format onnx out.onnx
refuses "info: checkpoints/ cannot be reached" 74 "run/checkpoints: $unanswered" "$celforge" info run
for resume in auto none; do
  refuses "--resume $resume: checkpoints/ cannot be reached" 74 "run/checkpoints: " "${train[@]}" --resume $resume
done
show run/checkpoints
hide run/checkpoints/step-00000004
refuses "--resume auto: the newest checkpoint cannot be reached" 74 "run/checkpoints/step-00000004: $unanswered" \
  "${train[@]}" --resume auto
grep -q "no older checkpoint is used, because this one may be whole" err
result $? "the message says why no older one is used"
refuses "--allow-older is for damaged ones only" 74 "run/checkpoints/step-00000004: $unanswered" \
  "$celforge" export --checkpoint run --allow-older --format onnx out.onnx
show run/checkpoints/step-00000004
hide run
refuses "the run folder cannot be reached" 74 "run: $unanswered" "$celforge" eval --checkpoint run --data data
refuses "--resume auto: the run folder cannot be reached" 74 "run" "${train[@]}" --resume auto
show run
cmp -s metrics run/metrics.jsonl
result $? "metrics.jsonl is as before"
refuses "--resume none: a used folder" 64 "run: contains checkpoints of an earlier run" "${train[@]}" --resume none

hide data
refuses "train: the dataset cannot be reached" 74 "data: $unanswered" "${train[@]}" --resume auto
refuses "eval: the dataset cannot be reached" 74 "data: $unanswered" "$celforge" eval --checkpoint run --data data
refuses "verify: the dataset cannot be reached" 74 "data" "$celforge" verify data
refuses "info: the dataset cannot be reached" 74 "data: $unanswered" "$celforge" info data
show data
refuses "train: the dataset is absent" 65 "gone: no such folder" "${train[@]}" --resume auto --set data.path=gone
hide data/manifest.json
refuses "train: the manifest cannot be reached" 74 "manifest.json: $unanswered" "${train[@]}" --resume auto
show data/manifest.json
ln -s loop loop
refuses "translate: the input cannot be reached" 74 "loop: $unanswered" "$celforge" translate --checkpoint run loop out.mp4
CELFORGE_MODELS=$work/loop refuses "a folder of models cannot be reached" 74 "loop: $unanswered" \
  "$celforge" export --model comic --format safetensors out.safetensors

# --- A damaged checkpoint -------------------------------------------------------------------------
cp run/checkpoints/step-00000004/generator.safetensors whole
printf '\x55' | dd of=run/checkpoints/step-00000004/generator.safetensors bs=1 seek=2000 conv=notrunc 2>/dev/null
damaged="run/checkpoints/step-00000004/generator.safetensors: CRC-32C is "
advice="--allow-older takes the newest whole one"
export_older=("$celforge" export --checkpoint run --format safetensors out.safetensors)
eval_older=("$celforge" eval --checkpoint run --data data --no-classifier)
refuses "export: the newest checkpoint is damaged" 65 "$damaged" "${export_older[@]}"
grep -qF -- "$advice" err
result $? "the message names the option"
refuses "eval: the newest checkpoint is damaged" 65 "$advice" "${eval_older[@]}"
refuses "info: the newest checkpoint is damaged" 65 "$advice" "$celforge" info run
nothing_left "nothing is written after an error" out.onnx out.safetensors out.mp4
if "$celforge" synth scene.mp4 --frames 2 --size 32x32 >out 2>err; then
  translate_older=("$celforge" translate --checkpoint run scene.mp4 out.mp4)
  refuses "translate: the newest checkpoint is damaged" 65 "$advice" "${translate_older[@]}"
  succeeds "translate --allow-older" "${translate_older[@]}" --allow-older
  grep -qF "step-00000002: an older checkpoint is used, of step 2 instead of 4" err
  result $? "translate --allow-older names the one it takes"
fi
succeeds "export --allow-older" "${export_older[@]}" --allow-older
grep -qF "step-00000002: an older checkpoint is used, of step 2 instead of 4" err
result $? "export --allow-older names the one it takes"
succeeds "eval --allow-older" "${eval_older[@]}" --allow-older
succeeds "info --allow-older" "$celforge" info run --allow-older
grep -q "step-00000002, step 2" out
result $? "info describes the older one"
refuses "--allow-older with --model" 64 "--allow-older: has no effect on --model" \
  "$celforge" export --model comic --allow-older --format safetensors out2.safetensors
refuses "run.init: the newest checkpoint is damaged" 65 "set run.init to the folder of an older one" \
  "$celforge" train tiny.yaml --set run.dir=other --set run.init=run

# --- A checkpoint that no training can have written -----------------------------------------------
set_step() { # FOLDER STEP-IN-STATE STEP-IN-MANIFEST: with valid checksums
  python3 - "$tests" "$@" >out 2>err <<'PYTHON'
import json, os, sys
sys.path.insert(0, sys.argv[1])
import runs
folder, state_step, manifest_step = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
state_path, manifest_path = (os.path.join(folder, name) for name in ("state.json", "manifest.json"))
state, manifest = (json.load(open(path, encoding="utf-8")) for path in (state_path, manifest_path))
state["step"], manifest["step"] = state_step, manifest_step
data = json.dumps(state).encode()
open(state_path, "wb").write(data)
manifest["files"]["state.json"] = {"bytes": len(data), "crc32c": runs.crc32c(data)}
del manifest["crc32c"]
manifest["crc32c"] = runs.crc32c(json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
json.dump(manifest, open(manifest_path, "w", encoding="utf-8"))
PYTHON
}
cp -r run/checkpoints/step-00000002 odd
refuse_step() { # NAME MESSAGE
  refuses "$1" 65 "$2" "$celforge" train tiny.yaml --set run.dir=elsewhere --resume odd
}
set_step odd 2 2
succeeds "a rewritten checkpoint is accepted" "$celforge" info odd
set_step odd 9223372036854775807 9223372036854775807
refuse_step "the largest integer as step" "odd/manifest.json: step: "
set_step odd 1000000000001 1000000000001
refuse_step "a step above the largest train.steps" "odd/manifest.json: step: "
set_step odd 9223372036854775807 2
refuse_step "the largest integer in state.json" "odd: step: "
set_step odd 3 2
refuse_step "two steps that differ" "odd/state.json: step is 3, but manifest.json says 2"

succeeds "--resume auto takes the older one" "${train[@]}" --resume auto
grep -qF "resuming from run/checkpoints/step-00000002 at step 2" err
result $? "it says so"
done_testing
