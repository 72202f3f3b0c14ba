#!/bin/bash
# Preflight: ranks with different programs, configs or datasets are reported before the run starts.
set -u
cd "$(dirname "$0")/../.."
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
# Open MPI does not free all of its memory.
export ASAN_OPTIONS=detect_leaks=0
program=${BUILD:-build}/tests/unit/trainer/run/test_preflight
count=0 failures=0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
log=$folder/log

if ! command -v mpirun >/dev/null; then
  echo "ok 1 - preflight of several ranks # SKIP no mpirun"
  exit 0
fi
if ! [ -x "$program" ]; then
  echo "not ok 1 - $program is not built"
  exit 1
fi

# expect CODE PATTERN NAME ARGUMENTS...: mpirun with the arguments exits with CODE, and one line matches PATTERN.
expect() {
  local want=$1 pattern=$2 name=$3 code; shift 3
  timeout -k 5 120 mpirun --oversubscribe "$@" >"$log" 2>&1; code=$?
  count=$((count + 1))
  if [ $code -eq "$want" ] && [ "$(grep -cE "$pattern" "$log")" -eq 1 ]; then
    echo "ok $count - $name"
  else
    echo "not ok $count - $name"
    { echo "exit code $code, want $want, and once: $pattern"; cat "$log"; } | sed 's/^/# /'
    failures=$((failures + 1))
  fi
}

a=01234567-89ab-8def-8123-456789abcdef
b=01234567-89ab-8def-8123-456789abcde0
host=$(hostname)
# A program of another build: bytes after the last section change the file's checksum, not the program.
cp "$program" "$folder/other"
echo other >>"$folder/other"
crc='CRC-32C is [0-9a-f]{8}'

expect 0 '^status 0: $' 'three ranks with the same program, config and dataset' -np 3 "$program" $a train.steps=9
expect 64 "^status 64: .* different builds: rank 1 on $host, rank 2 on $host \\(.* $crc\\) and rank 0 on $host" \
  'different builds: the two ranks are named' -np 1 "$program" $a : -np 2 "$folder/other" $a
expect 64 "^status 64: .* different configs: rank 1 on $host and rank 0 on $host; on rank 1 train\\.steps is 20, on rank 0 it is 10;" \
  'different configs: key and values are named' -np 1 "$program" $a train.steps=10 : -np 1 "$program" $a train.steps=20
expect 64 'on rank 2 run\.dir is "?b"?, on rank 0 it is "?a"?;' \
  "different configs: a string in the first section" -np 2 "$program" $a run.dir=a : -np 1 "$program" $a run.dir=b
expect 64 "different datasets .*: rank 1 on $host \\($b\\) and rank 0 on $host \\($a\\)" \
  'different datasets: the UUIDs are named' -np 1 "$program" $a : -np 1 "$program" $b
expect 0 '^status 0: $' 'unpaired data: two ranks with the same datasets' -np 2 "$program" $a,$b
expect 64 "different datasets at data.path and data.target_path: rank 1 on $host \\($a and $a\\) and rank 0 on $host \\($a and $b\\)" \
  'unpaired data: different targets' -np 1 "$program" $a,$b : -np 1 "$program" $a,$a
expect 64 'different datasets .*: rank 1 on [^,]*, rank 2 on [^,]*, rank 3 on [^,]*, rank 4 on [^ ]* and 2 more' \
  'many differing ranks: four are named, the others counted' -np 1 "$program" $a : -np 6 "$program" $b
SLURM_STEP_NUM_TASKS=2 expect 0 '^status 0: $' "under mpirun SLURM_STEP_NUM_TASKS is ignored" -np 3 "$program" $a

echo "1..$count"
[ $failures -eq 0 ]
