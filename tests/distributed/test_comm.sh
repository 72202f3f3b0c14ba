#!/bin/bash
# The process group under mpirun: its unit tests with one to four ranks, the same bits from run to
# run, and what happens when a rank does not come.
set -u
cd "$(dirname "$0")/../.."
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 CMOCKA_MESSAGE_OUTPUT=TAP
export OMP_NUM_THREADS=1
# Open MPI keeps some memory to its end.
export ASAN_OPTIONS=detect_leaks=0
program=${BUILD:-build}/tests/unit/comm/test_comm
means=${BUILD:-build}/tests/unit/comm/test_average
count=0 failures=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

result() { # CODE NAME
  count=$((count + 1))
  if [ "$1" -eq 0 ]; then
    echo "ok $count - $2"
  else
    echo "not ok $count - $2"
    sed 's/^/# /' "$log"
    failures=$((failures + 1))
  fi
}

if ! command -v mpirun >/dev/null; then
  echo "ok 1 - comm under mpirun # SKIP no mpirun"
  exit 0
fi
if ! [ -x "$program" ] || ! [ -x "$means" ]; then
  echo "not ok 1 - $program and $means are not built"
  exit 1
fi

run() { # N PROGRAM ARGUMENTS...
  local n=$1; shift
  timeout -k 5 180 mpirun --oversubscribe -np "$n" "$@" >"$log" 2>&1
}
ranks() { # N ARGUMENTS...
  local n=$1; shift
  run "$n" "$program" "$@"
}

for n in 1 2 3 4; do
  ranks $n
  result $? "unit tests with $n ranks"
  for way in fast reproducible bf16 serial bf16-serial; do
    [ $n-$way = 3-reproducible ] && continue
    run $n "$means" $way
    result $? "means with $n ranks, $way"
  done
done

for n in 2 3 4; do
  for way in fast bf16; do
    run $n "$means" $way checksum; first=$(grep checksum "$log" | sort | uniq -c)
    run $n "$means" $way checksum; second=$(grep checksum "$log" | sort | uniq -c)
    printf '%s\n' "first run:  $first" "second run: $second" >>"$log"
    [ -n "$first" ] && [ "$first" = "$second" ] && [ "$(wc -l <<<"$first")" -eq 1 ]
    result $? "$n ranks, $way: the same bits on every rank and in a second run"
  done
done

run 3 "$means" reproducible; code=$?
[ $code -eq 64 ] && grep -q 'a reproducible reduction of 3 ranks; the number of ranks must be a power of two, such as 2 or 4' "$log"
result $? 'three ranks cannot be reproducible, and are told which numbers can'

# expect SCENARIO N CODE PATTERN NAME: mpirun ends with CODE and says PATTERN, before the rank that sleeps for 60 s wakes.
expect() {
  local begin=$SECONDS code
  ranks "$2" "$1"; code=$?
  echo "exit code $code, want $3, want: $4" >>"$log"
  [ $code -eq "$3" ] && [ $((SECONDS - begin)) -lt 55 ] && grep -qE "$4" "$log"
  result $? "$5"
}
waited='rank 0 of 2 \(pid [0-9]+ on .+\) waited [0-9.]+ s without progress'
expect stuck-barrier 2 70 "barrier: $waited" 'a rank that misses a barrier ends the run and is told of'
expect stuck-broadcast 2 70 "broadcast: $waited, 0 of 4194304 bytes" 'a root that never sends ends the run'
expect stuck-average 2 70 "mean over the ranks: $waited, 0 of 4194304 bytes" 'a rank that never averages ends the run'
grep -q 'then: barrier: an earlier collective of this group has failed' "$log"
result $? 'after a failed collective the next fails at once'
expect stuck-average 4 70 'waited [0-9.]+ s without progress' 'one stuck rank of four ends the run'
expect missing-close 2 70 'the group cannot end in order: barrier' 'a rank that does not come to the end ends the run'
expect late 2 70 'MPI_Init has not returned within 1.5 s' 'a rank that never starts MPI ends the run'
expect abort 3 75 'MPI_ABORT was invoked on rank 2' "abort ends every rank with the abort's exit code"

SLURM_NTASKS=4 timeout 180 "$program" size >"$log" 2>&1
[ $? -eq 0 ] && grep -q 'warning: SLURM_NTASKS announces 4 ranks, but MPI sees 1' "$log" && grep -q 'size 1' "$log"
result $? 'a lone process of an announced four is warned of'
SLURM_NTASKS=1 SLURM_PROCID=0 timeout 180 "$program" size >"$log" 2>&1
[ $? -eq 0 ] && ! grep -q warning "$log" && grep -q 'size 1' "$log"
result $? 'a job of one task is one rank without a warning'
SLURM_NTASKS=4 ranks 2 size
[ $? -eq 0 ] && ! grep -q warning "$log"
result $? 'mpirun with fewer ranks than the job has tasks is no reason to warn'

echo "1..$count"
[ $failures -eq 0 ]
