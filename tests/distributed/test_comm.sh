#!/bin/bash
# The process group under mpirun: its unit tests with one to four ranks, the same bits in every run, and
# ranks that do not take part in a collective.
set -u
cd "$(dirname "$0")/../.."
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 CMOCKA_MESSAGE_OUTPUT=TAP
export OMP_NUM_THREADS=1
# Open MPI does not free all of its memory.
export ASAN_OPTIONS=detect_leaks=0
program=${BUILD:-build}/tests/unit/comm/test_comm
all_reduce=${BUILD:-build}/tests/unit/comm/test_async_allreduce
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
if ! [ -x "$program" ] || ! [ -x "$all_reduce" ]; then
  echo "not ok 1 - $program and $all_reduce are not built"
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
  for mode in fast reproducible bf16 serial bf16-serial; do
    [ $n-$mode = 3-reproducible ] && continue
    run $n "$all_reduce" $mode
    result $? "gradient all-reduce with $n ranks, $mode"
  done
done

for n in 2 3 4; do
  for mode in fast bf16; do
    run $n "$all_reduce" $mode checksum; first=$(grep checksum "$log" | sort | uniq -c)
    run $n "$all_reduce" $mode checksum; second=$(grep checksum "$log" | sort | uniq -c)
    printf '%s\n' "first run:  $first" "second run: $second" >>"$log"
    [ -n "$first" ] && [ "$first" = "$second" ] && [ "$(wc -l <<<"$first")" -eq 1 ]
    result $? "$n ranks, $mode: the same bits on every rank and in a second run"
  done
done

run 3 "$all_reduce" reproducible; code=$?
[ $code -eq 64 ] && grep -q 'comm.reduce: reproducible needs a power of two of ranks, such as 2 or 4; there are 3' "$log"
result $? 'reproducible with three ranks is rejected, and the error names possible numbers'

# expect SCENARIO N CODE PATTERN NAME: mpirun exits with CODE and prints PATTERN, before the rank that sleeps
# for 60 s wakes.
expect() {
  local begin=$SECONDS code
  ranks "$2" "$1"; code=$?
  echo "exit code $code, want $3, want: $4" >>"$log"
  [ $code -eq "$3" ] && [ $((SECONDS - begin)) -lt 55 ] && grep -qE "$4" "$log"
  result $? "$5"
}
waited='rank 0 of 2 \(pid [0-9]+ on .+\) waited [0-9.]+ s without progress'
expect stuck-barrier 2 70 "barrier: $waited" 'a rank that misses a barrier ends the run with a timeout error'
expect stuck-broadcast 2 70 "broadcast: $waited, 0 of 4194304 bytes" 'a root that never sends ends the run with the bytes done'
expect stuck-all-reduce 2 70 "gradient all-reduce: $waited, 0 of 4194304 bytes" 'a rank that never starts the all-reduce ends the run'
grep -q 'then: barrier: an earlier collective of this group has failed' "$log"
result $? 'after a failed collective the next one fails at once'
expect stuck-all-reduce 4 70 'waited [0-9.]+ s without progress' 'one stuck rank of four ends the run'
expect missing-close 2 70 'the group cannot be closed, aborting: barrier' 'a rank that does not call comm_close ends the run'
expect late 2 70 'MPI_Init has not returned within 1.5 s' 'a rank that never initialises MPI ends the run'
expect abort 3 75 'MPI_ABORT was invoked on rank 2' "abort ends every rank with the abort's exit code"

SLURM_NTASKS=4 timeout 180 "$program" size >"$log" 2>&1
[ $? -eq 0 ] && grep -q 'warning: SLURM_NTASKS announces 4 ranks, but MPI sees 1' "$log" && grep -q 'size 1' "$log"
result $? 'a single process warns if SLURM announces four'
SLURM_NTASKS=1 SLURM_PROCID=0 timeout 180 "$program" size >"$log" 2>&1
[ $? -eq 0 ] && ! grep -q warning "$log" && grep -q 'size 1' "$log"
result $? 'a job of one task is one rank, without a warning'
SLURM_NTASKS=4 ranks 2 size
[ $? -eq 0 ] && ! grep -q warning "$log"
result $? 'mpirun with fewer ranks than the job has tasks does not warn'

echo "1..$count"
[ $failures -eq 0 ]
