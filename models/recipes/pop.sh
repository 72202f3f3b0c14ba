# Learnt unpaired: one half of the clips are sources, the other half, drawn by the filter graph of `pack --look pop`, the cartoons.
look="poster in five colours from navy to cream, ink lines"
licence="CC-BY-SA-4.0"
trained_on="41 clips of models/clips.tsv, and 41 others drawn by celforge pack --look pop (BSD, CC0, CC BY, CC BY-SA, GPL, LGPL)"
height=180-360

# Prints the clips of one half. Clips whose names begin with the same word, which show the same picture, are in the same half.
half() { # 0 or 1
  subject='' count=0
  for clip in "$clips"/*.mp4; do
    word=${clip##*/}
    word=${word%.mp4}
    word=${word%%-*}
    [ "$word" = "$subject" ] || count=$((count + 1))
    subject=$word
    [ $((count % 2)) -ne "$1" ] || printf '%s\n' "$clip"
  done
}

pack() {
  set --
  for clip in $(half 0); do set -- "$@" --source "$clip"; done
  pack_once "$work/live" "$celforge" pack "$work/live" "$@" --size 384x216 --frames 2 --stride 8
  set --
  for clip in $(half 1); do set -- "$@" --source "$clip"; done
  pack_once "$work/drawn" "$celforge" pack "$work/drawn" "$@" --look pop --size 384x216 --frames 2 --stride 8
}

# First with what steadies it; then lines and flat areas without total variation and motion consistency, which blur them.
train() {
  "$celforge" train "$config" --set run.dir="$work/first-part" --set train.steps=2500 --set loss.total_variation=0.2 \
    --set loss.motion_consistency=3 --resume auto "$@"
  "$celforge" train "$config" --set run.dir="$work/run" --set run.init="$work/first-part" --resume auto "$@"
}
