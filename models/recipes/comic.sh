# Pairs drawn by the filter graph of `pack --look comic`, on all clips to train on.
look="ink lines, flat shading, strong colours"
licence="CC-BY-SA-4.0"
trained_on="82 clips of models/clips.tsv (BSD, CC0, CC BY, CC BY-SA, GPL, LGPL), drawn by celforge pack --look comic"
height=180-360

pack() {
  for clip in "$clips"/*.mp4; do set -- "$@" --source "$clip"; done
  pack_once "$work/pairs" "$celforge" pack "$work/pairs" "$@" --look comic --size 384x216 --frames 2 --stride 8
}
