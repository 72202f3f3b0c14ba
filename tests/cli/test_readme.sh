#!/bin/bash
# The README's "A day with it", line by line and in its order, on a fresh folder. Only the number of training steps is
# divided by 100, so that it takes a minute.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
configs=$PWD/configs readme=$PWD/README.md
cd "$work" || exit 1
ln -s "$configs" configs
mkdir bin && cat >bin/celforge <<SHORTER
#!/bin/bash
arguments=()
for word; do arguments+=("\$(sed -E 's/^(train\.steps=[0-9]+)00$/\1/' <<<"\$word")"); done
exec "$celforge" "\${arguments[@]}"
SHORTER
chmod +x bin/celforge
export PATH="$work/bin:$PATH"

if ! command -v ffprobe >/dev/null; then
  skip "the README's commands" "ffmpeg is missing"
  done_testing
fi

# The indented lines of the section, with continued lines joined and comments removed.
sed -n '/^## A day with it/,/^`celforge COMMAND/p' "$readme" | sed -n 's/^    //p' |
  sed -e ':join' -e '/\\$/{N;s/\\\n *//;b join' -e '}' -e 's/ \+# .*//' >commands
[ "$(wc -l <commands)" -ge 20 ]
result $? "the README has its commands"

while IFS= read -r line; do
  case $line in
    make | make\ deps* | export\ PATH=*) continue ;; # done already
    export\ *) eval "$line"; continue ;;
    mpirun\ *) line="mpirun --oversubscribe ${line#mpirun }" ;; # a test may have fewer cores than ranks
  esac
  succeeds "$line" bash -c "$line"
done <commands

python3 -c 'import json; scores = json.load(open("scores.json")); assert scores["clips"] == 24 and scores["psnr_output"] > 10' 2>err
result $? "the scores are those of 24 clips"
[ "$(ffprobe -v error -count_frames -select_streams v -show_entries stream=nb_read_frames -of csv=p=0 cartoon.mp4)" = 100 ]
result $? "the cartoon has the 100 frames of its source"
[ "$(find runs/two/checkpoints -name 'step-*' | wc -l)" -ge 1 ] && [ -s model.onnx ]
result $? "the run on two ranks left a checkpoint, and the export a model"
done_testing
