#!/bin/bash
# synth, pack and join on full disks: tmpfs of many sizes, from nothing to more than the result needs. Each attempt ends with a
# whole dataset, or with 74, "No space left on device", the path, and no temporary file or manifest.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
cd "$work" || exit 1

run "$celforge" synth parts/a --clips 6 --clips-per-shard 4 --frames 2 --size 32x32
result $code "synth: a part to join"
run "$celforge" synth parts/b --clips 3 --frames 2 --size 32x32 --seed 2
result $code "synth: another part to join"
mkdir frames
python3 - <<'PYTHON'
import random, struct, zlib
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
for number in range(4):
    rows = b"".join(b"\0" + random.Random(number * 32 + y).randbytes(48 * 3) for y in range(32))
    with open(f"frames/{number}.png", "wb") as png:
        png.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 32, 8, 2, 0, 0, 0)) +
                  chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
PYTHON

mkdir small
if ! mount -t tmpfs -o size=4k none small 2>mount; then
  skip "full disks" "tmpfs cannot be mounted: $(head -n 1 mount)"
  done_testing
  exit
fi
umount small

attempt() { # KILOBYTES COMMAND...: 0 if whole, 1 if refused cleanly, 2 if neither
  local size=$1 outcome=2
  shift
  mount -t tmpfs -o "size=${size}k" none small || return 2
  mounts+=("$work/small")
  run "$celforge" "$@"
  if [ $code -eq 0 ]; then
    "$celforge" verify small/data >verified 2>&1 && outcome=0
  elif [ $code -eq 74 ] && grep -q 'small/data.*No space left on device' err &&
    [ -z "$(find small \( -name '*.tmp' -o -name manifest.json \))" ]; then
    outcome=1
  fi
  [ $outcome -eq 2 ] && sed "s/^/# $size KiB, exit code $code: /" err
  umount small
  unset 'mounts[-1]'
  return $outcome
}

every_size() { # NAME STEP MOST COMMAND...: tries 4, 4 + STEP, ... MOST KiB
  local name=$1 step=$2 most=$3 size whole=0 refused=0 wrong=0
  shift 3
  for ((size = 4; size <= most; size += step)); do
    attempt "$size" "$@"
    case $? in
    0) whole=$((whole + 1)) ;;
    1) refused=$((refused + 1)) ;;
    *) wrong=$((wrong + 1)) ;;
    esac
  done
  [ $wrong -eq 0 ] && [ $whole -gt 0 ] && [ $refused -gt 2 ]
  result $? "full disks: $name ($whole whole, $refused refused, $wrong wrong)"
}

every_size "synth" 8 100 synth small/data --clips 6 --clips-per-shard 4 --frames 2 --size 32x32 --threads 1
every_size "synth --deflate" 16 100 synth small/data --clips 6 --clips-per-shard 4 --frames 2 --size 32x32 --deflate --threads 1
every_size "pack" 12 76 pack small/data --source frames --target frames --frames 2 --detect none
every_size "join, copying" 24 172 join small/data parts
every_size "join, rewriting" 16 148 join small/data parts --clips-per-shard 5
done_testing
