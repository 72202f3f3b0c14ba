#!/bin/bash
# celforge translate: size, frame rate, number of frames and audio are kept; images and frame folders; several inputs;
# super-resolution; memory that does not grow with the length of the video.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
cd "$work" || exit 1

run "$celforge" synth data --clips 4 --frames 2 --size 32x32
tiny_config tiny.yaml data run
run "$celforge" train tiny.yaml
result $code "train: a run to translate with"
translate=("$celforge" translate --checkpoint run)

if ! command -v ffmpeg >/dev/null; then
  skip "translate" "ffmpeg is missing, which creates and inspects the videos"
  done_testing
fi
properties() { # FILE: prints size, frame rate and number of frames
  ffprobe -v error -count_frames -select_streams v:0 \
    -show_entries stream=width,height,r_frame_rate,nb_read_frames -of default=nk=1:nw=1 "$1" | tr '\n' ' '
}
equal() { # NAME EXPECTED FOUND: both texts are equal and not empty
  [ -n "$2" ] && [ "$2" = "$3" ]
  result $? "$1"
  [ "$2" = "$3" ] || echo "# expected $2, found $3"
}
audio_checksum() { # FILE: prints a checksum of the packets of all audio streams
  ffmpeg -v error -i "$1" -map 0:a -c copy -f md5 -
}

# --- Video ----------------------------------------------------------------------------------------
ffmpeg -v error -f lavfi -i testsrc2=size=70x46:rate=30000/1001 -f lavfi -i sine=frequency=440:duration=2 \
  -f lavfi -i sine=frequency=880:duration=2 -map 0:v -map 1:a -map 2:a -frames:v 41 -c:a aac \
  -pix_fmt yuv420p video.mp4
succeeds "translate a video with two audio tracks" "${translate[@]}" video.mp4 cartoon.mp4
equal "size, frame rate and number of frames are kept" "$(properties video.mp4)" "$(properties cartoon.mp4)"
equal "they are those of the generated video" "70 46 30000/1001 41 " "$(properties cartoon.mp4)"
equal "the audio packets are copied unchanged" "$(audio_checksum video.mp4)" "$(audio_checksum cartoon.mp4)"
equal "both audio tracks are copied" 2 \
  "$(ffprobe -v error -select_streams a -show_entries stream=index -of csv cartoon.mp4 | wc -l)"
equal "the output is H.264" h264 \
  "$(ffprobe -v error -select_streams v -show_entries stream=codec_name -of default=nk=1:nw=1 cartoon.mp4)"
nothing_left "no temporary file is left" cartoon.mp4.
succeeds "an existing output is replaced" "${translate[@]}" video.mp4 cartoon.mp4 --threads 1
succeeds "--plain-weights and --quality" "${translate[@]}" --plain-weights --quality 40 video.mp4 rough.mp4
[ "$(stat -c %s rough.mp4)" -lt "$(stat -c %s cartoon.mp4)" ]
result $? "a lower quality gives a smaller file"
ffmpeg -v error -f lavfi -i testsrc=size=33x27:rate=10 -frames:v 7 -c:v ffv1 odd.mkv
succeeds "odd sizes and another container" "${translate[@]}" odd.mkv odd-cartoon.mkv
equal "odd sizes: size, frame rate and number of frames are kept" "33 27 10/1 7 " "$(properties odd-cartoon.mkv)"
ffmpeg -v error -i video.mp4 -t 0.5 -vf "select='not(mod(n,3))+lt(n,5)'" -vsync vfr -an uneven.mp4
succeeds "a variable frame rate" "${translate[@]}" uneven.mp4 uneven-cartoon.mp4
timestamps() { # FILE: prints the timestamps of all frames
  ffprobe -v error -select_streams v -show_entries frame=pts_time -of csv=p=0 "$1" | tr -d ,
}
equal "a variable frame rate: all timestamps are kept" "$(timestamps uneven.mp4)" "$(timestamps uneven-cartoon.mp4)"

# --- Images and frame folders ---------------------------------------------------------------------
mkdir frames && ffmpeg -v error -i video.mp4 -frames:v 5 frames/take-%02d.png
succeeds "a folder of frames" "${translate[@]}" frames frames-cartoon
equal "a folder of frames: the file names are kept" "$(ls frames)" "$(ls frames-cartoon)"
size_of() { # FILE: prints the size of its video stream
  ffprobe -v error -select_streams v -show_entries stream=width,height -of csv=p=0 "$1" | tr , ' '
}
equal "a folder of frames: the size is kept" "70 46" "$(size_of frames-cartoon/take-05.png)"
succeeds "a single image" "${translate[@]}" frames/take-01.png one.png
cmp -s one.png frames-cartoon/take-01.png
result $? "the first frame of a folder is translated like a single image"
cmp -s frames/take-01.png one.png
result $((! $?)) "the output differs from the input"
run "${translate[@]}" --precision bf16 frames/take-01.png bf16.png
if grep -q "does not run on this device" err; then
  skip "bf16" "this processor does not support it"
else
  ffmpeg -i one.png -i bf16.png -lavfi psnr -f null - 2>&1 | grep -q 'PSNR.*average:[5-9][0-9]\.'
  result $? "bf16 output is close to f32 output"
  cmp -s one.png bf16.png
  result $((! $?)) "bf16 output is not identical to f32 output"
fi
succeeds "bench translate" "$celforge" bench translate run --size 48x32 --steps 3 --json speed.json
python3 - 2>err <<'PYTHON'
import json
s = json.load(open("speed.json"))
assert s["frames"] == 3 and (s["width"], s["height"], s["precision"]) == (48, 32, "f32")
assert abs(s["gflop"] / s["frame_seconds"] / s["gflops"] - 1) < 1e-6
# Each convolution: 2 x pixels x outputs x kernel positions x inputs, with 4, 8, 16 channels. Other ops add a few per cent.
count = lambda scale, out, kernel, inputs: 2 * (48 // scale) * (32 // scale) * out * kernel * inputs
by_hand = sum((count(1, 4, 147, 3), count(2, 8, 9, 4), count(4, 16, 9, 8), count(4, 16, 27, 16), count(4, 16, 9, 16),
               count(2, 8, 9, 16), count(1, 4, 9, 8), count(1, 3, 49, 4)))
assert 1 < 1e9 * s["gflop"] / by_hand < 1.15, (s["gflop"], by_hand)
PYTHON
result $? "bench translate --json: sizes, the rate, and FLOPs as counted by hand"
refuses "bench translate without a model" 64 "PATH is missing; expected a run or checkpoint" "$celforge" bench translate
refuses "bench translate with frames that are too small" 64 \
  "celforge: the generator does not fit frames of 2x2 pixels: generator: pad" "$celforge" bench translate run --size 2x2
refuses "bench translate with a config" 65 "is a file" "$celforge" bench translate tiny.yaml
refuses "an unknown precision" 64 "--precision: unknown precision \"fp8\"; allowed: f32, bf16" "${translate[@]}" --precision fp8 \
  frames/take-01.png fp8.png
CUDA_VISIBLE_DEVICES='' refuses "a missing device" 64 "celforge: --device: cuda: " "${translate[@]}" --device cuda \
  frames/take-01.png none.png
refuses "an existing folder as output" 64 "frames-cartoon" "${translate[@]}" frames frames-cartoon
mkdir empty
refuses "a folder without frames" 65 "empty" "${translate[@]}" empty empty-cartoon
nothing_left "a folder without frames: no output is created" empty-cartoon

# --- Signals --------------------------------------------------------------------------------------
# Interrupts the translation of a long video when a part of the output is written.
ffmpeg -v error -stream_loop 2000 -i odd.mkv -c copy long.mkv
"${translate[@]}" --codec ffv1 long.mkv stopped.mkv >out 2>err &
pid=$! tries=0
until [ "$(stat -c %s stopped.mkv.* 2>/dev/null | head -n 1)" -gt 0 ] 2>/dev/null || [ $((tries++)) -gt 400 ]; do sleep 0.02; done
kill -TERM $pid
wait $pid
[ $? -eq 75 ] && grep -qF "stopped by a signal" err
result $? "SIGTERM stops it with exit code 75"
nothing_left "after SIGTERM no output is left" stopped.mkv

# --- Two inputs: the output of an untrained model is close to the first input ---------------------
ffmpeg -v error -i video.mp4 -vf negate -an -c:v ffv1 negative.mkv
ffmpeg -v error -i video.mp4 -an -c:v ffv1 positive.mkv
ffmpeg -v error -i positive.mkv -frames:v 20 -c:v ffv1 short.mkv
succeeds "pack with two inputs" "$celforge" pack two --source positive.mkv --also negative.mkv --target video.mp4 --frames 4
echo "run: {}" > plain.yaml
succeeds "train a model with two inputs" "$celforge" train plain.yaml --set data.path=two --set run.dir=fusion \
  --set model.channels=4 --set model.blocks=0 --set loss.adversarial_weight=0 --set train.steps=1 \
  --set optim.generator_lr=0 --set samples.every=0
fuse=("$celforge" translate --checkpoint fusion --codec ffv1)
succeeds "translate --also" "${fuse[@]}" positive.mkv --also negative.mkv fused.mkv
equal "--also: size, frame rate and number of frames are kept" "$(properties positive.mkv)" "$(properties fused.mkv)"
succeeds "translate --also with swapped inputs" "${fuse[@]}" negative.mkv --also positive.mkv swapped.mkv
psnr() { # FILE FILE: prints the PSNR in whole dB
  ffmpeg -i "$1" -i "$2" -lavfi psnr -f null - 2>&1 | sed -nE 's/.*average:([0-9]+|inf).*/\1/p'
}
[ "$(psnr fused.mkv positive.mkv)" -gt "$(psnr fused.mkv negative.mkv)" ]
result $? "the output is closer to the first input than to the second"
[ "$(psnr swapped.mkv negative.mkv)" -gt "$(psnr swapped.mkv positive.mkv)" ]
result $? "with swapped inputs, too, the output is closer to the first one"
succeeds "the same video for both inputs" "${fuse[@]}" positive.mkv --also positive.mkv same.mkv
[ "$(psnr fused.mkv same.mkv)" != inf ]
result $? "the output depends on the second input"
refuses "one video for a model with two inputs" 64 "reads 2 inputs, but 1 is given" "${fuse[@]}" positive.mkv none.mkv
refuses "two videos for a model with one input" 64 "reads 1 input, but 2 are given" \
  "${translate[@]}" positive.mkv --also negative.mkv none.mkv
refuses "inputs of different sizes" 65 "all inputs must have the same size" "${fuse[@]}" positive.mkv --also odd.mkv none.mkv
refuses "a second input that is shorter" 65 "short.mkv: is shorter than positive.mkv" \
  "${fuse[@]}" positive.mkv --also short.mkv none.mkv
refuses "a second input that is longer" 65 "positive.mkv: is longer than short.mkv" \
  "${fuse[@]}" short.mkv --also positive.mkv none.mkv
refuses "a second input as output" 64 "is also an input" "${fuse[@]}" positive.mkv --also negative.mkv negative.mkv
nothing_left "no output is created from refused inputs" none.mkv

# --- Super-resolution: the scale is part of the model ----------------------------------------------
succeeds "pack with sources of half the targets' size" \
  "$celforge" pack half --source video.mp4 --target-filter null --scale 2 --frames 4
echo "run: {}" > plain.yaml
succeeds "train a super-resolution model" "$celforge" train plain.yaml --set data.path=half \
  --set run.dir=double --set model.channels=4 --set model.blocks=1 --set loss.adversarial_weight=0 \
  --set train.steps=1 --set train.global_batch=1 --set samples.every=0
succeeds "translate with a super-resolution model" "$celforge" translate --checkpoint double video.mp4 double.mp4
equal "the output has twice the size" "140 92" "$(size_of double.mp4)"

# --- pix2pixhd: a frame's output depends on this frame only -----------------------------------------
succeeds "train a model without temporal layers" "$celforge" train plain.yaml --set data.path=half --set run.dir=still \
  --set model.generator=pix2pixhd --set model.temporal=none --set model.norm=instance --set model.downsamplings=2 \
  --set model.local_enhancers=1 --set model.channels=4 --set model.blocks=1 --set loss.adversarial_weight=0 \
  --set train.steps=1 --set train.global_batch=1 --set samples.every=0
succeeds "pix2pixhd translates a folder" "$celforge" translate --checkpoint still frames frames-still
for frame in frames/*.png; do last=$(basename "$frame"); done
succeeds "pix2pixhd translates the last frame alone" "$celforge" translate --checkpoint still "frames/$last" last.png
cmp -s last.png "frames-still/$last"
result $? "both outputs of the last frame are identical"
# Output of 4x4 would have to be padded to 8x8.
ffmpeg -v error -i one.png -vf scale=2:2 speck.png
succeeds "pack clips of a few pixels" "$celforge" pack specks --source frames --target frames --frames 2 --size 5x3
refuses "translate: an image too small for the model" 64 \
  "celforge: speck.png: the generator does not fit frames of 4x4 pixels: " "$celforge" translate --checkpoint still speck.png none.png
refuses "eval: clips too small for the model" 64 "celforge: specks: the generator does not fit frames of 5x3 pixels: " \
  "$celforge" eval --checkpoint still --data specks
nothing_left "no output is created from an image that is too small" none.png

# --- Memory ---------------------------------------------------------------------------------------
peak_memory() { # FILE: prints the peak resident memory of its translation in KiB
  # AddressSanitizer keeps freed memory in a quarantine, more with more threads.
  ASAN_OPTIONS=$ASAN_OPTIONS:quarantine_size_mb=0:thread_local_quarantine_size_kb=0 \
    python3 - "${translate[@]}" "$1" "$work/peak.mp4" <<'PYTHON'
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
PYTHON
}
ffmpeg -v error -f lavfi -i testsrc2=size=128x96:rate=25 -frames:v 60 -pix_fmt yuv420p short.mp4
ffmpeg -v error -f lavfi -i testsrc2=size=128x96:rate=25 -frames:v 480 -pix_fmt yuv420p long.mp4
short=$(peak_memory short.mp4) long=$(peak_memory long.mp4)
[ $((long - short)) -lt 6000 ]
result $? "480 frames take no more memory than 60 (15 MiB of frames less)"
echo "# $short KiB, $long KiB"
done_testing
