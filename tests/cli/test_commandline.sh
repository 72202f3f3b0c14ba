#!/bin/bash
# The command line: help texts, error messages and exit codes.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
cd "$work" || exit 1

# --- Help ---------------------------------------------------------------------------------------
commands="synth pack join verify train eval translate export info config bench"
succeeds "celforge --help" "$celforge" --help
for command in $commands; do
  grep -qE "^  $command " out || echo "# $command is not listed"
done >missing
result "$(wc -l <missing)" "celforge --help lists all commands"
for command in $commands; do
  succeeds "celforge $command --help" "$celforge" "$command" --help
  prints "celforge $command --help shows its usage" "usage: celforge $command"
done
succeeds "celforge --version" "$celforge" --version
prints "celforge --version prints the version" "celforge 0."
succeeds "celforge pack --help" "$celforge" pack --help
for option in source target also look source-filter target-filter frames size seed stride range detect deflate; do
  grep -qF -- "--$option" out || echo "# --$option"
done >missing
result "$(wc -l <missing)" "celforge pack --help lists the options that scripts use"
grep -qE '^  comic +[a-z]' out
result $? "celforge pack --help describes the looks"
succeeds "celforge train --help" "$celforge" train --help
prints "celforge train --help lists config keys" "optim.generator_lr"

# --- Invalid arguments ----------------------------------------------------------------------------
refuses "no command" 64 "celforge --help" "$celforge"
refuses "an unknown command" 64 'unknown command "trian"; did you mean "train"?' "$celforge" trian
refuses "an unknown command without a similar one" 64 'unknown command "frobnicate-it"' "$celforge" frobnicate-it
refuses "a misspelt option" 64 'unknown option --frmaes; did you mean --frames?' \
  "$celforge" synth x --frmaes 3
refuses "an unknown option without a similar one" 64 'unknown option --quux-quux' "$celforge" synth x --quux-quux
refuses "a short option" 64 'unknown option -n' "$celforge" synth x -n 3
refuses "an option without its value" 64 '--clips: needs a value' "$celforge" synth x --clips
refuses "an option in place of a value" 64 '--clips: needs a value' "$celforge" synth x --clips --frames 3
refuses "an option twice" 64 '--clips: given twice' "$celforge" synth x --clips 1 --clips=2
refuses "a value that is not a number" 64 '--clips: "4k" is not a whole number' "$celforge" synth x --clips 4k
refuses "a value out of range" 64 '--clips: 0 is out of range; allowed: 1 to' "$celforge" synth x --clips=0
refuses "a number of more than 64 bits" 64 'out of range' "$celforge" synth x --seed 99999999999999999999
refuses "a value that is not a size" 64 '--size: "64" is not a size; allowed: WxH' "$celforge" synth x --size 64
refuses "a size of 0x0" 64 '--size: "0x0" is not a size' "$celforge" pack x --source y --size 0x0
refuses "a value for a flag" 64 '--deflate: takes no value' "$celforge" synth x --deflate=yes
refuses "a superfluous argument" 64 'unexpected argument "y"' "$celforge" synth x y
refuses "synth without OUT" 64 'OUT is missing' "$celforge" synth
refuses "pack without --source and --target" 64 'give --source, --target or both' "$celforge" pack x
refuses "pack with more sources than targets" 64 '2 --source and 1 --target; pairs need as many of each' \
  "$celforge" pack x --source a --source b --target t
refuses "pack --also with several sources" 64 '--also adds an input to the only --source' \
  "$celforge" pack x --source a --source b --also c
refuses "pack with more than four inputs" 64 '--also is given 4 times; allowed: 0 to 3' "$celforge" pack x --source a \
  --also b --also c --also d --also e --target t
refuses "pack --target alone with --scale" 64 '--scale has no effect without --source' "$celforge" pack x --target t --scale 2
refuses "pack with an unknown look" 64 'unknown look "cubism"; allowed: comic, ' "$celforge" pack x --source a --look cubism
refuses "pack --look with --target" 64 '--look makes the target and excludes --target;' \
  "$celforge" pack x --source a --target t --look comic
refuses "pack --detect with an unknown word" 64 '--detect cuts,fades: expected all, none, or a list of' \
  "$celforge" pack x --source a --detect cuts,fades
refuses "a range whose end is before its start" 64 '9:3' "$celforge" pack x --source y --target z --range 9:3
refuses "an unknown device" 64 '--device: unknown device "gpu"; allowed: auto, cpu, cuda' \
  "$celforge" eval --checkpoint x --data y --device gpu
refuses "config without --defaults or --check" 64 'either --defaults or --check' "$celforge" config
refuses "an unknown benchmark" 64 'allowed: step, translate, comm, data, checkpoint, scaling' "$celforge" bench stp x
refuses "an option of another benchmark" 64 '--cluster: has no effect in step; allowed in scaling' \
  "$celforge" bench step x --cluster y
refuses "an argument of another benchmark" 64 \
  'PATH: has no effect in comm; allowed in step, translate, data, checkpoint, scaling' "$celforge" bench comm x
nothing_left "no refused command creates a file" x

# --- Config files -----------------------------------------------------------------------------------
succeeds "config --defaults" "$celforge" config --defaults
cp out defaults.yaml
succeeds "config --check accepts the defaults" "$celforge" config --check defaults.yaml
printf 'train:\n  steps: 3\n  stepz: 4\n' >bad.yaml
refuses "a misspelt key: config --check" 64 'bad.yaml:3:3: train.stepz: unknown key; did you mean "train.steps"?' \
  "$celforge" config --check bad.yaml
refuses "a misspelt key: train" 64 'bad.yaml:3:3: train.stepz: unknown key; did you mean "train.steps"?' \
  "$celforge" train bad.yaml
printf 'modle:\n  channels: 3\n' >bad.yaml
refuses "a misspelt section" 64 'did you mean "model' "$celforge" config --check bad.yaml
printf 'train:\n  steps: many\n' >bad.yaml
refuses "a config value of a wrong type" 64 'bad.yaml:2:10: train.steps: "many" is not an integer; allowed: 1 to' \
  "$celforge" config --check bad.yaml
printf 'optim:\n  beta1: 1.5\n' >bad.yaml
refuses "a config value out of range" 64 'bad.yaml:2:10: optim.beta1: "1.5" is out of range; allowed: 0 to' \
  "$celforge" config --check bad.yaml
printf 'model:\n  norm: batch\n' >bad.yaml
refuses "an unknown choice" 64 'allowed: none, rms, instance, group' "$celforge" config --check bad.yaml
printf 'train: [1, 2\n' >bad.yaml
refuses "a file that is not YAML" 64 'bad.yaml:' "$celforge" config --check bad.yaml
printf 'train:\n  global_batch: 6\n  micro_batch: 4\n' >bad.yaml
refuses "a global batch that is not a multiple of the micro-batch" 64 \
  'bad.yaml:2:17: train.global_batch: 6 is not a multiple of train.micro_batch 4' \
  "$celforge" config --check bad.yaml
refuses_settings() { # NAME MESSAGE KEY=VALUE...: the defaults with these changes
  local name=$1 message=$2 settings=()
  shift 2
  for setting; do settings+=(--set "$setting"); done
  refuses "$name" 64 "$message" "$celforge" train defaults.yaml "${settings[@]}"
}
refuses_settings "a crop with a width but no height" "set both crop_height and crop_width, or neither" data.crop_width=32
refuses_settings "an adversarial loss without discriminators" "1 needs a discriminator: model.image_scales" \
  model.image_scales=0 model.video=false
refuses_settings "feature matching without discriminators" "loss.feature_matching=2: 2 needs trained discriminators" \
  loss.feature_matching=2 loss.adversarial_weight=0
refuses_settings "R1 without discriminators" "loss.r1=3: 3 needs trained discriminators" loss.r1=3 loss.adversarial_weight=0
refuses_settings "a perceptual loss without VGG19's weights" \
  "loss.perceptual=2: 2 needs VGG19's weights: loss.perceptual_weights" loss.perceptual=2
refuses_settings "a generator without any loss" "loss.l1=0: the generator needs loss.l1" loss.l1=0 loss.adversarial_weight=0
refuses_settings "pretraining without an L1 loss" \
  "optim.pretrain_steps=5: pretraining on L1 needs loss.l1" loss.l1=0 optim.pretrain_steps=5
refuses_settings "temporal layers in pix2pixhd" \
  "model.generator=pix2pixhd: pix2pixhd has no temporal layers, but model.temporal is conv3d; set it to none" \
  model.generator=pix2pixhd
refuses_settings "a local enhancer in celnet" "model.local_enhancers=1: needs model.generator: pix2pixhd" model.local_enhancers=1
refuses "a missing config file" 74 'missing.yaml: cannot open: No such file' "$celforge" train missing.yaml
refuses "a misspelt key in --set" 64 '--set trian.steps=4: unknown key; did you mean "train.steps"?' \
  "$celforge" train defaults.yaml --set trian.steps=4
refuses "an invalid value in --set" 64 '--set train.steps=x: "x" is not an integer' \
  "$celforge" train defaults.yaml --set train.steps=x
refuses "--set without a value" 64 '--set train.steps: has no value; write KEY=VALUE' \
  "$celforge" train defaults.yaml --set train.steps
refuses "a missing dataset" 65 'nowhere: no such folder' \
  "$celforge" train defaults.yaml --set data.path=nowhere --set run.dir=run
nothing_left "a refused run creates no folder" run
refuses "a write error on standard output" 74 'standard output: No space left' \
  bash -c '"$0" config --defaults >/dev/full' "$celforge"

# --- Datasets and runs ----------------------------------------------------------------------------
succeeds "synth: a small dataset" "$celforge" synth data --clips 4 --frames 2 --size 32x32
tiny_config tiny.yaml data run
succeeds "a run that ends before the first R1 step" "$celforge" train tiny.yaml --set run.dir=idle --set loss.r1=1 \
  --set loss.adversarial_weight=1 --set model.image_layers=1 --set model.video=false --set train.steps=3
grep -qF "loss.r1_interval is 16, but the run has only 3 steps after pretraining: R1 is never applied" err
result $? "a warning says that R1 is never applied"
if command -v mpirun >/dev/null; then
  refuses_once() { # NAME CODE MESSAGE ARGUMENTS OF train...: three ranks print the message once
    local name=$1 expected=$2 message=$3
    shift 3
    run mpirun --oversubscribe -np 3 "$celforge" train "$@"
    [ "$code" -eq "$expected" ] && [ "$(grep -cF -- "$message" err)" -eq 1 ]
    result $? "three ranks print one message for $name"
  }
  refuses_once "an unknown option" 64 "unknown option --rsume; did you mean --resume?" tiny.yaml --rsume auto
  refuses_once "a missing config file" 74 "missing.yaml: cannot open" missing.yaml
  refuses_once "an invalid value" 64 '--set train.steps=x: "x" is not' tiny.yaml --set train.steps=x
  refuses_once "an unsupported number of ranks" 64 "such as 2 or 4" tiny.yaml --set comm.reduce=reproducible
  refuses_once "incompatible options" 64 "use comm.gradients: f32 or comm.reduce: fast" \
    tiny.yaml --set comm.reduce=reproducible --set comm.gradients=bf16
  refuses_once "a global batch that cannot be split over the ranks" 64 \
    'cannot be split over 3 ranks; possible world sizes: 1, 2' tiny.yaml
  run mpirun --oversubscribe -np 2 "$celforge" train tiny.yaml : -np 1 "$celforge" train missing.yaml
  [ $code -eq 74 ] && [ "$(grep -cF 'rank 2: missing.yaml: cannot open' err)" -eq 1 ]
  result $? "if one of three ranks fails, the message names it"
else
  skip "error messages of several ranks" "no mpirun"
fi
refuses "a crop larger than the clips" 64 'crop' \
  "$celforge" train tiny.yaml --set data.crop_height=64 --set data.crop_width=64
refuses "more frames than the clips have" 64 'data: data.frames is 9; the clips have only ' \
  "$celforge" train tiny.yaml --set data.frames=9
nothing_left "none of these creates the run folder" run
succeeds "train --plan" "$celforge" train tiny.yaml --plan
prints "train --plan lists ops" "generator.stem.conv3d"
prints "train --plan lists the arena" "arena"
nothing_left "train --plan creates no run folder" run
succeeds "a run" "$celforge" train tiny.yaml
[ "$(wc -l <run/metrics.jsonl)" -eq 4 ]
result $? "four steps write four lines of metrics"
refuses "a new run in the folder of an earlier one" 64 'run: contains checkpoints of an earlier run' \
  "$celforge" train tiny.yaml
refuses "resuming from a missing checkpoint" 74 'elsewhere: cannot open as a checkpoint or a run' \
  "$celforge" train tiny.yaml --resume elsewhere
succeeds "resuming from the checkpoint of another run" \
  "$celforge" train tiny.yaml --set run.dir=branch --resume run/checkpoints/step-00000002/
cp -r run/checkpoints/step-00000002 copy
succeeds "resuming from a renamed copy of that checkpoint" \
  "$celforge" train tiny.yaml --set run.dir=second-branch --resume copy
cmp -s branch/checkpoints/step-00000004/state.json run/checkpoints/step-00000004/state.json &&
  cmp -s branch/checkpoints/step-00000004/optimizer.safetensors run/checkpoints/step-00000004/optimizer.safetensors &&
  cmp -s branch/checkpoints/step-00000004/optimizer.safetensors second-branch/checkpoints/step-00000004/optimizer.safetensors
result $? "all three runs end with the same bytes"
succeeds "resuming a finished run" "$celforge" train tiny.yaml --resume auto
for path in run run/checkpoints/step-00000004 data data/shard-00000.h5; do
  succeeds "info $path" "$celforge" info $path
done
refuses "info of a missing path" 65 'nothing: no such file' "$celforge" info nothing
refuses "info of a folder that is neither dataset nor run" 65 'neither a dataset' "$celforge" info /
succeeds "eval" "$celforge" eval --checkpoint run --data data --json scores.json
grep -q '"psnr_output"' scores.json && grep -q '"clips": 4' scores.json
result $? "eval --json writes the scores"
refuses "eval of a missing run" 74 'norun: cannot open as a checkpoint or a run' \
  "$celforge" eval --checkpoint norun --data data
refuses "eval on a missing dataset" 65 'nodata: no such folder' \
  "$celforge" eval --checkpoint run --data nodata
refuses "eval with a dataset as checkpoint" 65 'data/manifest.json' \
  "$celforge" eval --checkpoint data --data data
refuses "eval --json into a missing folder" 74 'no/scores.json' \
  "$celforge" eval --checkpoint run --data data --json no/scores.json
nothing_left "eval --json does not create the folder" no
mkdir empty
refuses "eval of a folder that is not a run" 65 'empty: is neither a checkpoint' \
  "$celforge" eval --checkpoint empty --data data
refuses "synth into an existing dataset" 64 'data: already holds a dataset' "$celforge" synth data --clips 4
mkdir foreign && touch foreign/notes.txt
refuses "synth into a folder with other files" 64 'foreign' "$celforge" synth foreign --clips 4
[ "$(ls foreign)" = notes.txt ]
result $? "synth leaves these files unchanged"
succeeds "bench data" "$celforge" bench data data --seconds 1 --json data.json
grep -q '"gb_per_second"' data.json
result $? "bench data --json writes the rates"
succeeds "bench step" "$celforge" bench step tiny.yaml --steps 1 --size 32x32 --frames 2 --json step.json
grep -q '"share_of_convolution_speed"' step.json
result $? "bench step --json writes the results"
done_testing
