#!/bin/bash
# The next command removes temporary files of killed ones, but none of a living process. Links planted in the folder of a run
# are not followed.
# tests/run: mostly waits
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
cd "$work" || exit 1

run "$celforge" synth data --clips 4 --frames 2 --size 32x32
tiny_config tiny.yaml data run
run "$celforge" train tiny.yaml
result $code "train: a run to translate with"
translate=("$celforge" translate --checkpoint run)

# --- Leftovers ---------------------------------------------------------------------------------------------
locked() { # PATH: it exists, and a process has locked it
  [ -e "$1" ] && ! flock -n "$1" true
}
begin() { # IN OUT: starts to translate, stops the process once its temporary file is locked; sets $process
  local attempt
  for attempt in {1..20}; do
    "${translate[@]}" "$1" "$2" >/dev/null 2>"$2.err" &
    process=$!
    while kill -STOP $process 2>/dev/null; do
      locked "$2"*.tmp && return
      kill -CONT $process
      sleep 0.01
    done
    wait $process # it was done before it could be stopped
    rm -rf "$2"
  done
}
end() { # SIGNAL: ends the process; sets $code
  kill "-$1" $process
  wait $process 2>/dev/null
  code=$?
}
check_kind() { # KIND IN OUT
  local kind=$1 in=$2 out=$3
  begin "$in" "$out"
  end KILL
  compgen -G "$out*.tmp" >/dev/null
  result $? "$kind: a killed translate leaves a temporary file"
  succeeds "$kind: the next one succeeds" "${translate[@]}" "$in" "$out"
  [ -e "$out" ] && ! compgen -G "$out*.tmp" >/dev/null
  result $? "$kind: and has removed it"
  rm -rf "$out"
}
mkdir frames
"$celforge" synth one.mp4 --frames 48 --size 96x64 >out 2>err
if [ $? -eq 0 ]; then
  check_kind "video" one.mp4 killed.mp4
  begin one.mp4 both.mp4
  first=$process
  succeeds "video: another translate to the same output succeeds" "${translate[@]}" one.mp4 both.mp4
  [ "$(compgen -G "both.mp4*.tmp" | wc -l)" -eq 1 ]
  result $? "video: and leaves the temporary file of the living one"
  cp both.mp4 expected.mp4
  process=$first
  end CONT
  [ "$code" -eq 0 ] && cmp both.mp4 expected.mp4 && ! compgen -G "both.mp4*.tmp" >/dev/null
  result $? "video: which ends well"
else
  skip "leftovers of videos" "this build has no FFmpeg"
fi

python3 - <<'PYTHON'
import struct, zlib
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
pixels = b"".join(b"\0" + bytes((x * 3 + y) % 256 for x in range(96 * 3)) for y in range(64))
for i in range(48):
    with open(f"frames/{i:03}.png", "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 96, 64, 8, 2, 0, 0, 0))
                   + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b""))
PYTHON
check_kind "frame folder" frames killed
begin frames busy
refuses "frame folder: another translate to the same output is refused" 64 "another process is writing" \
  "${translate[@]}" frames busy
end CONT
[ "$code" -eq 0 ] && [ "$(find busy -name '*.png' | wc -l)" -eq 48 ]
result $? "frame folder: and the living one ends well"

# --- Links -------------------------------------------------------------------------------------------------
mkdir outside
for name in tensorboard ranks metrics.jsonl lock; do
  rm -rf linked
  mkdir linked
  case $name in
    metrics.jsonl | lock) ln -s ../outside/file "linked/$name" ;;
    *) ln -s ../outside "linked/$name" ;;
  esac
  tiny_config linked.yaml data linked
  refuses "a link as $name is refused" 64 "linked/$name: is a symbolic link" "$celforge" train linked.yaml
done
[ -z "$(ls -A outside)" ]
result $? "nothing is written where the links lead"
mkdir elsewhere large
ln -s elsewhere folder
ln -s ../large elsewhere/checkpoints
tiny_config folder.yaml data folder
succeeds "run.dir and checkpoints may be links" "$celforge" train folder.yaml
[ -e elsewhere/metrics.jsonl ] && [ -e large/latest ]
result $? "and the run is written where they lead"

done_testing
