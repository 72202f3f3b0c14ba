#!/bin/bash
# Ranks that were not started alike: another program, config, dataset or number of them is named before a run begins.
set -u
cd "$(dirname "$0")/../.."
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
# Open MPI keeps some memory to its end.
export ASAN_OPTIONS=detect_leaks=0
program=${BUILD:-build}/tests/unit/trainer/test_launch
count=0 failures=0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
log=$folder/log

if ! command -v mpirun >/dev/null; then
  echo "ok 1 - ranks that were not started alike # SKIP no mpirun"
  exit 0
fi
if ! [ -x "$program" ]; then
  echo "not ok 1 - $program is not built"
  exit 1
fi

# expect CODE PATTERN NAME ARGUMENTS...: mpirun with the arguments ends with CODE, and one line fits PATTERN.
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
# A program of another build: what follows its last section is never run, but it is another file.
cp "$program" "$folder/other"
echo other >>"$folder/other"
crc='CRC-32C is [0-9a-f]{8}'

expect 0 '^status 0: $' 'three ranks started alike' -np 3 "$program" $a train.steps=9
expect 64 "^status 64: .* different builds: rank 1 on $host, rank 2 on $host \\(.* $crc\\) and rank 0 on $host" \
  'another build on two of three ranks is named' -np 1 "$program" $a : -np 2 "$folder/other" $a
expect 64 "^status 64: .* different configs: rank 1 on $host and rank 0 on $host; on rank 1 train\\.steps is 20, on rank 0 it is 10;" \
  'another config is named by key and values' -np 1 "$program" $a train.steps=10 : -np 1 "$program" $a train.steps=20
expect 64 'on rank 2 run\.dir is "?b"?, on rank 0 it is "?a"?;' \
  "a text of the config's first section likewise" -np 2 "$program" $a run.dir=a : -np 1 "$program" $a run.dir=b
expect 64 "different datasets .*: rank 1 on $host \\($b\\) and rank 0 on $host \\($a\\)" \
  'another dataset is named by its UUID' -np 1 "$program" $a : -np 1 "$program" $b
expect 64 'different datasets .*: rank 1 on [^,]*, rank 2 on [^,]*, rank 3 on [^,]*, rank 4 on [^ ]* and 2 more' \
  'of many ranks some are named and the others counted' -np 1 "$program" $a : -np 6 "$program" $b
SLURM_STEP_NUM_TASKS=2 expect 0 '^status 0: $' "mpirun inside a job step counts as no step's number" -np 3 "$program" $a

echo "1..$count"
[ $failures -eq 0 ]
