#!/bin/bash
# tests/run: mostly waits
# Runs that stand still: whatever a rank does, the others say which one is behind and all leave in time.
set -u
cd "$(dirname "$0")/../.."
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMP_NUM_THREADS=1
# Open MPI keeps some memory to its end.
export ASAN_OPTIONS=detect_leaks=0
program=${BUILD:-build}/tests/unit/comm/test_heartbeat
count=0 failures=0
temporary=$(mktemp -d)
log=$temporary/log
trap 'rm -rf "$temporary"' EXIT

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
  echo "ok 1 - heartbeats under mpirun # SKIP no mpirun"
  exit 0
fi
if ! [ -x "$program" ]; then
  echo "not ok 1 - $program is not built"
  exit 1
fi

# Pattern of one rank's name in a report.
rank() { echo "rank $1 \\(host [^ ]+, pid [0-9]+\\)"; }

# expect SCENARIO RANK CODE PATTERN NAME [MPIRUN'S OPTION]: three ranks, of which RANK misbehaves in its third
# step; mpirun ends with CODE and says PATTERN once, before RANK wakes after 60 s. Deadlines are 2 s, evaluation's is
# 8 s. Which of the others reports is a matter of half a second, so of how busy the machine is.
expect() {
  local begin=$SECONDS code said
  # shellcheck disable=SC2086
  timeout -k 5 100 mpirun --oversubscribe ${6:-} -np 3 "$program" "$1" "$temporary/$1-$2" "$2" >"$log" 2>&1
  code=$?
  said=$(grep -cE "$4" "$log")
  echo "exit code $code, want $3; $((SECONDS - begin)) s; $said times: $4" >>"$log"
  [ "$3" = any ] || [ $code -eq "$3" ] || { result 1 "$5"; return; }
  [ $((SECONDS - begin)) -lt 55 ] && [ "$said" -eq 1 ]
  result $? "$5"
}

stopped='its process is stopped by a signal or a debugger; last sign of life [0-9]+ s ago, in step since [0-9:]+ \([0-9]+ s\), step 3$'
expect stop 1 70 "\\[[02]\\] error: behind: $(rank 1): $stopped" 'a stopped rank is named by another, and all leave'
expect stop 0 70 "\\[[12]\\] error: behind: $(rank 0): $stopped" 'a stopped rank 0 is named by another, and all leave'
grep -q 'no progress: rank [12] of 3 is in reduce (mean over the ranks) since' "$log" &&
  grep -q 'waiting in reduce (mean over the ranks), step 3: rank 1, 2$' "$log"
result $? 'the report says who waits, in what, and in which step'
cat "$temporary"/stop-0/diagnosis-*.txt >"$log" && grep -qE "^behind: $(rank 0): $stopped" "$log"
result $? 'the report is kept beside the records'
expect kill 1 137 'rank 1 with PID [0-9]+ on node .* exited on signal 9' 'a killed rank ends the run; mpirun names it'
expect kill 1 any "behind: $(rank 1): its process is gone; last sign of life" \
  'a killed rank that the launcher overlooks is named' --enable-recovery
expect data 1 70 "behind: $(rank 1) in data since [0-9:]+ \\([0-9]+ s\\), step 3$" 'a rank stuck in data is named'
expect receive 2 70 "behind: $(rank 2) in step since [0-9:]+ \\([0-9]+ s\\), step 3$" 'a rank whose main thread is stuck in MPI is named'
expect apart 2 70 'no rank is behind: all wait for each other' 'ranks in different collectives: all leave'
grep -q 'waiting in reduce (broadcast), step 3: rank 2$' "$log" &&
  grep -q 'waiting in reduce (mean over the ranks), step 3: rank 0, 1$' "$log"
result $? 'and the report says which ranks wait in what'
expect end 2 70 "behind: $(rank 2) in end since" 'a rank that does not come to the end is named'
expect fifo 1 70 'error: rank 1 of 3 .* and its heartbeat hangs in .* does the file system answer|behind: rank 1 .* its process is there, but writes no heartbeat' \
  'a rank whose files hang too is named'
timeout -k 5 100 mpirun --oversubscribe -np 3 "$program" evaluate "$temporary/evaluate" 0 >"$log" 2>&1 && ! [ -s "$log" ]
result $? 'rank 0 may evaluate alone past the deadline of those who wait'

# A file system that hangs on the only rank (while the next test runs): nobody else is there to say so.
(timeout -k 5 100 "$program" fifo "$temporary/alone" 0 >"$temporary/alone.log" 2>&1; echo $? >"$temporary/alone.code") &
# Stopped for longer than three heartbeats and ten seconds, then continued: a warning, and nothing lost.
(timeout -k 5 180 mpirun --oversubscribe -np 3 "$program" pause "$temporary/pause" 1 >"$log" 2>&1; echo $? >"$temporary/code") &
for _ in $(seq 600); do grep -qs '"step": [1-9]' "$temporary/pause/1.json" && break; sleep 0.1; done
pid=$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' "$temporary/pause/1.json")
kill -STOP "$pid"
for _ in $(seq 250); do grep -q 'has given no sign of life' "$log" && break; sleep 0.1; done
sleep 1
kill -CONT "$pid"
wait
[ "$(cat "$temporary/code")" -eq 0 ] && [ "$(grep -cE "warning: $(rank 1) has given no sign of life for [0-9]+ s: its process is stopped" "$log")" -eq 1 ]
result $? 'a rank that is silent for ten seconds is warned of, once'
grep -qE 'rank 1 gives signs of life again, after [0-9]+ s' "$log" && grep -qE '\[1\] warning: this process did not run for [0-9]+ s' "$log"
result $? 'a rank that goes on after a pause is not held to its deadline'

mv "$temporary/alone.log" "$log"
[ "$(cat "$temporary/alone.code")" -eq 70 ] &&
  grep -q 'rank 0 of 1 (host .*) has been in step for .* longer than its 2 s, and its heartbeat hangs in' "$log"
result $? 'one rank alone whose files hang leaves, saying so'

echo "1..$count"
[ $failures -eq 0 ]
