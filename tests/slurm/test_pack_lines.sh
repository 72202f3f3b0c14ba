#!/bin/bash
# slurm/pack.sbatch takes the options of a video from a line of a file: words and quotes as in a shell, without executing
# anything, and lines that end in LF or CR LF. A script in the place of celforge prints its arguments.
set -u
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d "${TMPDIR:-/tmp}/celforge-pack-XXXXXX")
trap 'rm -rf "$work"' EXIT
count=0 failures=0

printf '%s\n' '#!/bin/bash' "printf '[%s]' \"\$@\"" >"$work/celforge"
chmod +x "$work/celforge"

arguments() { # NAME LINE EXPECTED: line 2 of the file is LINE, with escapes of printf
  local found
  count=$((count + 1))
  printf '%b' "--source first.mp4\\r\\n$2" >"$work/videos.txt"
  found=$(SLURM_ARRAY_TASK_ID=2 CELFORGE=$work/celforge bash slurm/pack.sbatch "$work/videos.txt" "$work/video" --size 320x)
  if [ "$found" = "[pack][$work/video.parts/000002]$3[--size][320x]" ]; then
    echo "ok $count - $1"
  else
    echo "not ok $count - $1"
    echo "# found: $found" | cat -A
    failures=$((failures + 1))
  fi
}

arguments "a line ends in LF" '--source a.mp4\n--source next.mp4\n' '[--source][a.mp4]'
arguments "a line ends in CR LF" '--source a.mp4\r\n--source next.mp4\r\n' '[--source][a.mp4]'
arguments "the last line has no end" '--source a.mp4' '[--source][a.mp4]'
arguments "quotes keep spaces together, before CR LF" '--source "a video.mp4" --target '"'b c.mp4'"'\r\n' \
  '[--source][a video.mp4][--target][b c.mp4]'
arguments "nothing is executed" '--source $(touch here).mp4\r\n' '[--source][$(touch][here).mp4]'
echo "1..$count"
[ $failures -eq 0 ]
