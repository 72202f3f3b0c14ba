#!/bin/bash
# Model files: export --format model, where translate --model finds them, celforge models, models/make, make install; and
# each model of the folder models/: readable, small, with a page and a licence, and different from the identity.
set -u
cd "$(dirname "$0")/../.."
root=$PWD
. tests/cli/support.sh
unset CELFORGE_MODELS
cd "$work" || exit 1

run "$celforge" synth data --clips 4 --frames 2 --size 32x32
tiny_config tiny.yaml data run
run "$celforge" train tiny.yaml
result $code "train: a run to export"
run "$celforge" synth scene.mp4 --frames 8 --size 96x64 --seed 4
[ $code -eq 0 ] || { mkdir scene && run "$celforge" synth scene --frames 8 --size 96x64 --seed 4; }

# --- Export ---------------------------------------------------------------------------------------
export_model=("$celforge" export --format model --checkpoint run)
mkdir looks
card=(--look "ink lines and flat colours" --licence CC-BY-SA-4.0 --trained-on "rendered clips" --height 180-360 --date 2026-11-30)
succeeds "export a model file" "${export_model[@]}" looks/comic.safetensors "${card[@]}"
succeeds "export it again" "${export_model[@]}" again.safetensors "${card[@]}" --name comic
cmp -s looks/comic.safetensors again.safetensors
result $? "both files are identical"
succeeds "export a model file without a card" "${export_model[@]}" looks/pencil.safetensors
succeeds "export the plain weights" "${export_model[@]}" --plain-weights plain.safetensors
cmp -s plain.safetensors looks/pencil.safetensors
result $((! $?)) "plain weights are others"
refuses "a name that is no name" 64 'none.safetensors: card.name: "A B"; allowed:' "${export_model[@]}" none.safetensors --name "A B"
refuses "a look of two lines" 64 "card.look: byte 1 is not printable" "${export_model[@]}" none.safetensors --look $'a\nb'
refuses "an empty licence" 64 "card.licence: has 0 bytes" "${export_model[@]}" none.safetensors --licence ""
refuses "a wrong height" 64 'card.height: "tall"; expected pixels' "${export_model[@]}" none.safetensors --height tall
refuses "a wrong date" 64 'card.date: "today"; expected YYYY-MM-DD' "${export_model[@]}" none.safetensors --date today
refuses "a card with another format" 64 "--licence: has no effect on --format onnx" "$celforge" export --format onnx --checkpoint run \
  --licence MIT none.safetensors
refuses "--stream with a model file" 64 "--stream: has no effect on --format model" "${export_model[@]}" --stream none.safetensors
nothing_left "nothing is written after an error" none.safetensors

# --- Finding models -------------------------------------------------------------------------------
translate=("$celforge" translate)
refuses "neither --model nor --checkpoint" 64 "no model: give --model NAME (installed models: " "${translate[@]}" scene.mp4 none.mp4
refuses "both" 64 "--checkpoint and --model exclude each other" "${translate[@]}" --model comic --checkpoint run scene.mp4 none.mp4
export CELFORGE_MODELS=$work/missing:$work/looks
refuses "neither: the message lists what is installed" 64 "comic, pencil" "${translate[@]}" scene.mp4 none.mp4
refuses "an unknown name" 64 'unknown model "comik"; did you mean "comic"? installed models: comic, pencil' \
  "${translate[@]}" --model comik scene.mp4 none.mp4
refuses "a name far from all" 64 'unknown model "watercolour"; installed models: ' "${translate[@]}" --model watercolour scene.mp4 none.mp4
refuses "--plain-weights of a model" 64 "--plain-weights: has no effect on --model" "${translate[@]}" --model comic --plain-weights \
  scene.mp4 none.mp4
refuses "a path that does not exist" 74 "none.safetensors: cannot open" "${translate[@]}" --model none.safetensors scene.mp4 none.mp4
refuses "a checkpoint's weights are no model" 65 "is a safetensors file, but no model file" "${translate[@]}" \
  --model run/checkpoints/step-00000004/generator.safetensors scene.mp4 none.mp4
head -c 1000 looks/comic.safetensors >short.safetensors
refuses "a truncated file" 65 "short.safetensors: " "${translate[@]}" --model short.safetensors scene.mp4 none.mp4
cp looks/comic.safetensors other.safetensors
CELFORGE_MODELS=$work refuses "a file with another name than its card's" 65 'its card names it "comic"; rename the file' \
  "${translate[@]}" --model other scene.mp4 none.mp4

succeeds "celforge models" "$celforge" models --json list.json
prints "it lists the look" "ink lines and flat colours"
prints "it lists size and licence" "trained at a height of 180-360 pixels, "
prints "it lists a model without a card" "licence: not stated"
[ "$(awk '{ if (length > 100) print }' out | grep -vcF "$work")" -eq 0 ]
result $? "no line but those of paths is over 100 columns"
python3 - 2>err <<'PYTHON'
import json
import os
models = {model["name"]: model for model in json.load(open("list.json"))["models"]}
comic, pencil = models["comic"], models["pencil"]
assert comic["licence"] == "CC-BY-SA-4.0" and comic["height"] == "180-360" and comic["step"] == 4, comic
assert comic["bytes"] == os.path.getsize("looks/comic.safetensors") and os.path.samefile(comic["path"], "looks/comic.safetensors")
assert pencil["look"] is None and pencil["licence"] is None
PYTHON
result $? "celforge models --json"
succeeds "celforge models NAME" "$celforge" models comic
prints "the card" "trained on    rendered clips"
prints "the network" "generator celnet, channels 4, blocks 1"
refuses "celforge models of an unknown name" 64 'did you mean "pencil"?' "$celforge" models pencils
echo "no model" >looks/broken.safetensors
succeeds "a damaged file does not hide the others" "$celforge" models
grep -q "warning: .*broken.safetensors: not a safetensors file" err && grep -q "^comic" out
result $? "a warning names it"
rm looks/broken.safetensors

# --- The same picture as from the checkpoint, but for rounding ---------------------------------------
mkdir stills
if command -v ffmpeg >/dev/null && [ -e scene.mp4 ]; then
  ffmpeg -v error -i scene.mp4 stills/%02d.png
  succeeds "translate --model" "$celforge" translate --model comic stills by-model
  succeeds "translate --model PATH" "$celforge" translate --model looks/comic.safetensors stills by-path
  succeeds "translate --checkpoint" "$celforge" translate --checkpoint run stills by-checkpoint
  diff -rq by-model by-path >/dev/null
  result $? "by name and by path: identical"
  psnr=$(ffmpeg -i by-model/%02d.png -i by-checkpoint/%02d.png -lavfi psnr -f null - 2>&1 | sed -n 's/.*PSNR.*min:\([0-9.inf]*\).*/\1/p')
  case $psnr in inf) true ;; *) [ "${psnr%.*}" -ge 55 ] ;; esac
  result $? "by model and by checkpoint: PSNR of at least 55 dB (rounding of the weights)"
  echo "# $psnr dB"
  succeeds "export --model as ONNX" "$celforge" export --model comic --format onnx comic.onnx
  succeeds "export a model file of a model" "$celforge" export --model comic --format model copy.safetensors "${card[@]}" --name comic
  cmp -s copy.safetensors looks/comic.safetensors
  result $? "it is identical"
  succeeds "bench translate --model" "$celforge" bench translate --model comic --size 48x32 --steps 2
  refuses "export over the model itself" 64 "is also the input" "$celforge" export --model looks/comic.safetensors --format model \
    looks/comic.safetensors
fi

succeeds "eval --model" "$celforge" eval --model comic --data data --no-classifier --json by-model.json
succeeds "eval --checkpoint" "$celforge" eval --checkpoint run --data data --no-classifier --json by-checkpoint.json
python3 - 2>err <<'PYTHON'
import json
model, checkpoint = json.load(open("by-model.json")), json.load(open("by-checkpoint.json"))
assert model["checkpoint"].endswith("looks/comic.safetensors") and model["step"] == checkpoint["step"] == 4
assert abs(model["psnr_output"] - checkpoint["psnr_output"]) < 0.02, (model["psnr_output"], checkpoint["psnr_output"])
PYTHON
result $? "both scores are equal but for rounding"

# --- Installed, and in the source tree ------------------------------------------------------------
unset CELFORGE_MODELS
mkdir -p prefix/bin prefix/share/celforge/models && cp "$celforge" prefix/bin/ && cp looks/comic.safetensors prefix/share/celforge/models/
run prefix/bin/celforge models comic
grep -qF "$work/prefix/share/celforge/models/comic.safetensors" out
result $? "an installed program finds ../share/celforge/models"
mkdir -p tree/build/other tree/models && cp "$celforge" tree/build/other/ && cp looks/pencil.safetensors tree/models/
touch tree/models/README.md tree/models/clips.tsv
run tree/build/other/celforge models pencil
grep -qF "$work/tree/models/pencil.safetensors" out
result $? "a program in a build folder finds models/ of the source tree"
rm tree/models/clips.tsv
refuses "a folder models/ of something else does not count" 64 "unknown model" tree/build/other/celforge models pencil

# --- models/make ------------------------------------------------------------------------------------
cat >drawn.sh <<'RECIPE'
look="a test" licence=CC0-1.0 trained_on="rendered clips" height=32
fetch() { :; }
pack() { [ -e "$data" ]; }
train() { "$celforge" train "$config" --set data.path="$data" --set run.dir="$RUN" "$@"; work=${RUN%/run}; }
RECIPE
cp tiny.yaml drawn.yaml
export data=$work/data RUN=$work/made/run
mkdir made
BUILD=$(dirname "$celforge") succeeds "models/make" "$root/models/make" "$work/drawn.sh" --out "$work/drawn.safetensors" --set train.steps=2
succeeds "its result" "$celforge" models drawn.safetensors
prints "it trained as many steps as asked" "EMA, of step 2"
BUILD=$(dirname "$celforge") run "$root/models/make" no-such-model
[ $code -eq 64 ] && grep -q "models/recipes/no-such-model.sh: no such recipe" err
result $? "models/make: an unknown recipe"
rmdir "$root/models/build/drawn" 2>/dev/null
rmdir "$root/models/build" 2>/dev/null

# --- Models that ship -------------------------------------------------------------------------------
for file in "$root"/models/*.safetensors; do
  [ -e "$file" ] || continue
  name=$(basename "$file" .safetensors)
  succeeds "$name: readable" "$celforge" models "$file" --json card.json
  [ "$(stat -c %s "$file")" -le 4194304 ]
  result $? "$name: at most 4 MiB"
  grep -q '"licence": "[^"]' card.json && grep -q '"trained_on": "[^"]' card.json && grep -q '"height": "[^"]' card.json &&
    grep -q '"look": "[^"]' card.json
  result $? "$name: look, licence, training data and height are stated"
  [ -s "${file%.safetensors}.md" ]
  result $? "$name: has a page"
  [ -e "$root/models/recipes/$name.sh" ]
  result $? "$name: has a recipe"
  [ -e scene.mp4 ] || continue
  succeeds "$name: translates" "$celforge" translate --model "$name" scene.mp4 "$name.mp4"
  ffmpeg -i scene.mp4 -i "$name.mp4" -lavfi psnr -f null - 2>&1 | grep -q 'PSNR.*average:\([0-9]\|[12][0-9]\|3[0-4]\)\.'
  result $? "$name: the output differs from the input (PSNR below 35 dB)"
done
done_testing
