#!/bin/bash
# translate: the same size, rate, number of frames and sound; pictures and frame folders; memory that
# does not grow with the length.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
cd "$work" || exit 1

run "$celforge" synth data --clips 4 --frames 2 --size 32x32
tiny_config tiny.yaml data run
run "$celforge" train tiny.yaml
result $code "a run to translate with"
translate=("$celforge" translate --checkpoint run)

if ! command -v ffmpeg >/dev/null; then
  skip "translate" "ffmpeg is missing: it makes and inspects the videos"
  done_testing
fi
facts() { # FILE; size, rate, frames counted
  ffprobe -v error -count_frames -select_streams v:0 \
    -show_entries stream=width,height,r_frame_rate,nb_read_frames -of default=nk=1:nw=1 "$1" | tr '\n' ' '
}
same() { # NAME EXPECTED FOUND
  [ -n "$2" ] && [ "$2" = "$3" ]
  result $? "$1"
  [ "$2" = "$3" ] || echo "# expected $2, found $3"
}
sound() { # FILE; a checksum of the packets of every audio stream
  ffmpeg -v error -i "$1" -map 0:a -c copy -f md5 -
}

# --- Video ----------------------------------------------------------------------------------------
ffmpeg -v error -f lavfi -i testsrc2=size=70x46:rate=30000/1001 -f lavfi -i sine=frequency=440:duration=2 \
  -f lavfi -i sine=frequency=880:duration=2 -map 0:v -map 1:a -map 2:a -frames:v 41 -c:a aac \
  -pix_fmt yuv420p video.mp4
succeeds "a video with two sound tracks" "${translate[@]}" video.mp4 cartoon.mp4
same "the same size, rate and number of frames" "$(facts video.mp4)" "$(facts cartoon.mp4)"
same "which are those it was made with" "70 46 30000/1001 41 " "$(facts cartoon.mp4)"
same "the sound's packets are the same" "$(sound video.mp4)" "$(sound cartoon.mp4)"
same "both tracks of it" 2 "$(ffprobe -v error -select_streams a -show_entries stream=index -of csv cartoon.mp4 | wc -l)"
same "H.264" h264 "$(ffprobe -v error -select_streams v -show_entries stream=codec_name -of default=nk=1:nw=1 cartoon.mp4)"
nothing_left "no temporary files" cartoon.mp4.
succeeds "again, over what is there" "${translate[@]}" video.mp4 cartoon.mp4 --threads 1
succeeds "the plain weights, another quality" "${translate[@]}" --plain-weights --quality 40 video.mp4 rough.mp4
[ "$(stat -c %s rough.mp4)" -lt "$(stat -c %s cartoon.mp4)" ]
result $? "a lower quality is a smaller file"
ffmpeg -v error -f lavfi -i testsrc=size=33x27:rate=10 -frames:v 7 -c:v ffv1 odd.mkv
succeeds "odd sizes, another container" "${translate[@]}" odd.mkv odd-cartoon.mkv
same "the same size, rate and number of frames" "33 27 10/1 7 " "$(facts odd-cartoon.mkv)"
ffmpeg -v error -i video.mp4 -t 0.5 -vf "select='not(mod(n,3))+lt(n,5)'" -vsync vfr -an uneven.mp4
succeeds "an uneven rate" "${translate[@]}" uneven.mp4 uneven-cartoon.mp4
times() { ffprobe -v error -select_streams v -show_entries frame=pts_time -of csv=p=0 "$1" | tr -d ,; }
same "every frame keeps its time" "$(times uneven.mp4)" "$(times uneven-cartoon.mp4)"

# --- Pictures and folders -------------------------------------------------------------------------
mkdir frames && ffmpeg -v error -i video.mp4 -frames:v 5 frames/take-%02d.png
succeeds "a folder of frames" "${translate[@]}" frames frames-cartoon
same "the same names" "$(ls frames)" "$(ls frames-cartoon)"
same "the same size" "70 46" "$(ffprobe -v error -show_entries stream=width,height -of csv=p=0 frames-cartoon/take-05.png | tr , ' ')"
succeeds "a picture" "${translate[@]}" frames/take-01.png one.png
cmp -s one.png frames-cartoon/take-01.png
result $? "the first frame of a stream is the picture alone"
cmp -s frames/take-01.png one.png
result $((! $?)) "which the model has changed"
run "${translate[@]}" --precision bf16 frames/take-01.png bf16.png
if grep -q "does not run on this device" err; then
  skip "bf16" "this processor has none"
else
  ffmpeg -i one.png -i bf16.png -lavfi psnr -f null - 2>&1 | grep -q 'PSNR.*average:[5-9][0-9]\.'
  result $? "in bf16 a picture is almost the same"
  cmp -s one.png bf16.png
  result $((! $?)) "but not to the bit"
fi
succeeds "bench translate" "$celforge" bench translate run --size 48x32 --steps 3 --json speed.json
python3 - 2>err <<'PYTHON'
import json
s = json.load(open("speed.json"))
assert s["frames"] == 3 and (s["width"], s["height"], s["precision"]) == (48, 32, "f32")
assert abs(s["gflop"] / s["frame_seconds"] / s["gflops"] - 1) < 1e-6
# 2 x pixels x outputs x kernel positions x inputs of each convolution, channels 4, 8, 16; others are a few per cent
count = lambda scale, out, kernel, inputs: 2 * (48 // scale) * (32 // scale) * out * kernel * inputs
by_hand = sum((count(1, 4, 147, 3), count(2, 8, 9, 4), count(4, 16, 9, 8), count(4, 16, 27, 16), count(4, 16, 9, 16),
               count(2, 8, 9, 16), count(1, 4, 9, 8), count(1, 3, 49, 4)))
assert 1 < 1e9 * s["gflop"] / by_hand < 1.15, (s["gflop"], by_hand)
PYTHON
result $? "its numbers, and FLOPs as counted by hand"
refuses "bench translate without a model" 64 "PATH is missing: a run or checkpoint" "$celforge" bench translate
refuses "bench translate of tiny frames" 64 "celforge: the generator does not fit frames of 2x2 pixels: generator: pad" \
  "$celforge" bench translate run --size 2x2
refuses "bench translate of a config" 65 "is a file" "$celforge" bench translate tiny.yaml
refuses "a precision there is not" 64 "--precision: unknown precision \"fp8\"; allowed: f32, bf16" "${translate[@]}" --precision fp8 \
  frames/take-01.png fp8.png
CUDA_VISIBLE_DEVICES='' refuses "a device there is not" 64 "celforge: --device: cuda: " "${translate[@]}" --device cuda \
  frames/take-01.png none.png
refuses "a folder that is there already" 64 "frames-cartoon" "${translate[@]}" frames frames-cartoon
mkdir empty
refuses "a folder without frames" 65 "empty" "${translate[@]}" empty empty-cartoon
nothing_left "nothing is made of it" empty-cartoon

# --- A signal -------------------------------------------------------------------------------------
# A long video that is interrupted when a part has been written.
ffmpeg -v error -stream_loop 2000 -i odd.mkv -c copy long.mkv
"${translate[@]}" --codec ffv1 long.mkv stopped.mkv >out 2>err &
pid=$! tries=0
until [ "$(stat -c %s stopped.mkv.* 2>/dev/null | head -n 1)" -gt 0 ] 2>/dev/null || [ $((tries++)) -gt 400 ]; do sleep 0.02; done
kill -TERM $pid
wait $pid
[ $? -eq 75 ] && grep -qF "stopped by a signal" err
result $? "a signal ends it"
nothing_left "and nothing is left" stopped.mkv

# --- Fusion: an untrained model of two inputs; its output is almost the first input ---------------------
ffmpeg -v error -i video.mp4 -vf negate -an -c:v ffv1 negative.mkv
ffmpeg -v error -i video.mp4 -an -c:v ffv1 positive.mkv
ffmpeg -v error -i positive.mkv -frames:v 20 -c:v ffv1 short.mkv
succeeds "two videos as source" "$celforge" pack two --source positive.mkv --source negative.mkv --target video.mp4 --frames 4
echo "run: {}" > plain.yaml
succeeds "a model of both" "$celforge" train plain.yaml --set data.path=two --set run.dir=fusion --set model.channels=4 \
  --set model.blocks=0 --set loss.adversarial_weight=0 --set train.steps=1 --set optim.generator_lr=0 --set samples.every=0
fuse=("$celforge" translate --checkpoint fusion --codec ffv1)
succeeds "translate --also" "${fuse[@]}" positive.mkv --also negative.mkv fused.mkv
same "the same size, rate and number of frames" "$(facts positive.mkv)" "$(facts fused.mkv)"
succeeds "the other way round" "${fuse[@]}" negative.mkv --also positive.mkv turned.mkv
likeness() { # FILE FILE; dB, whole
  ffmpeg -i "$1" -i "$2" -lavfi psnr -f null - 2>&1 | sed -nE 's/.*average:([0-9]+|inf).*/\1/p'
}
[ "$(likeness fused.mkv positive.mkv)" -gt "$(likeness fused.mkv negative.mkv)" ]
result $? "the output is like the first of them"
[ "$(likeness turned.mkv negative.mkv)" -gt "$(likeness turned.mkv positive.mkv)" ]
result $? "whichever that is"
succeeds "the first one twice" "${fuse[@]}" positive.mkv --also positive.mkv same.mkv
[ "$(likeness fused.mkv same.mkv)" != inf ]
result $? "the second one counts as well"
refuses "one video for two" 64 "reads 2 inputs, but 1 is given" "${fuse[@]}" positive.mkv none.mkv
refuses "two videos for one" 64 "reads 1 input, but 2 are given" "${translate[@]}" positive.mkv --also negative.mkv none.mkv
refuses "videos of two sizes" 65 "all inputs must have the same size" "${fuse[@]}" positive.mkv --also odd.mkv none.mkv
refuses "videos of two lengths" 65 "short.mkv: is shorter than positive.mkv" "${fuse[@]}" positive.mkv --also short.mkv none.mkv
refuses "the other way round" 65 "positive.mkv: is longer than short.mkv" "${fuse[@]}" short.mkv --also positive.mkv none.mkv
refuses "an output that is a further input" 64 "is also an input" "${fuse[@]}" positive.mkv --also negative.mkv negative.mkv
nothing_left "nothing is made of them" none.mkv

# --- Super-resolution: the model knows how much larger its output is -------------------------------
succeeds "sources half the targets' size" \
  "$celforge" pack half --source video.mp4 --target-filter null --scale 2 --frames 4
echo "run: {}" > plain.yaml
succeeds "a model trained on them" "$celforge" train plain.yaml --set data.path=half \
  --set run.dir=double --set model.channels=4 --set model.blocks=1 --set loss.adversarial_weight=0 \
  --set train.steps=1 --set train.global_batch=1 --set samples.every=0
succeeds "translates" "$celforge" translate --checkpoint double video.mp4 double.mp4
same "to twice the size" "140 92" "$(ffprobe -v error -select_streams v -show_entries stream=width,height -of csv=p=0 double.mp4 | tr , ' ')"

# --- pix2pixhd: a frame's output is its own ---------------------------------------------------------
succeeds "a model that knows no time" "$celforge" train plain.yaml --set data.path=half --set run.dir=still \
  --set model.generator=pix2pixhd --set model.temporal=none --set model.norm=instance --set model.downsamplings=2 \
  --set model.local_enhancers=1 --set model.channels=4 --set model.blocks=1 --set loss.adversarial_weight=0 \
  --set train.steps=1 --set train.global_batch=1 --set samples.every=0
succeeds "translates a folder" "$celforge" translate --checkpoint still frames frames-still
for frame in frames/*.png; do last=$(basename "$frame"); done
succeeds "and its last frame alone" "$celforge" translate --checkpoint still "frames/$last" last.png
cmp -s last.png "frames-still/$last"
result $? "to the same picture"
# Output of 4x4 has to be padded to 8x8.
ffmpeg -v error -i one.png -vf scale=2:2 speck.png
succeeds "clips of a few pixels" "$celforge" pack specks --source frames --target frames --frames 2 --size 5x3
refuses "a picture that is too small for it" 64 "celforge: speck.png: the generator does not fit frames of 4x4 pixels: " \
  "$celforge" translate --checkpoint still speck.png none.png
refuses "and clips that are" 64 "celforge: specks: the generator does not fit frames of 5x3 pixels: " \
  "$celforge" eval --checkpoint still --data specks
nothing_left "nothing is made of them" none.png

# --- Any length -----------------------------------------------------------------------------------
peak() { # FILE; KiB
  # AddressSanitizer would keep what is freed for a while, and more of it the more threads there are.
  ASAN_OPTIONS=$ASAN_OPTIONS:quarantine_size_mb=0:thread_local_quarantine_size_kb=0 python3 - "${translate[@]}" "$1" "$work/peak.mp4" <<'PYTHON'
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
PYTHON
}
ffmpeg -v error -f lavfi -i testsrc2=size=128x96:rate=25 -frames:v 60 -pix_fmt yuv420p short.mp4
ffmpeg -v error -f lavfi -i testsrc2=size=128x96:rate=25 -frames:v 480 -pix_fmt yuv420p long.mp4
short=$(peak short.mp4) long=$(peak long.mp4)
[ $((long - short)) -lt 6000 ]
result $? "480 frames take the memory of 60 (15 MiB of pictures more)"
echo "# $short KiB, $long KiB"
done_testing
