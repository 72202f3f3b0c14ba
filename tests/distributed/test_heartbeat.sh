#!/bin/bash
# tests/run: mostly waits
# Runs without progress: whatever one rank does, the others report which rank is behind, and all exit in time.
set -u
cd "$(dirname "$0")/../.."
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMP_NUM_THREADS=1
# Open MPI does not free all of its memory.
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

# Pattern of a rank in a report.
rank() { echo "rank $1 \\(host [^ ]+, pid [0-9]+\\)"; }

# expect SCENARIO RANK CODE PATTERN NAME [MPIRUN_OPTION]: three ranks, of which RANK misbehaves in its third step;
# mpirun exits with CODE and prints PATTERN once, before RANK wakes after 60 s. Deadlines are 2 s, for evaluation 8 s.
# Which of the other ranks reports depends on half a second, so on how busy the machine is.
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

stopped='its process is stopped by a signal or a debugger; last heartbeat [0-9]+ s ago, in step since [0-9:]+ \([0-9]+ s\), step 3$'
expect stop 1 70 "\\[[02]\\] error: behind: $(rank 1): $stopped" 'a stopped rank is named by another, and all exit'
expect stop 0 70 "\\[[12]\\] error: behind: $(rank 0): $stopped" 'a stopped rank 0 is named by another, and all exit'
grep -q 'no progress: rank [12] of 3 has been in reduce (gradient all-reduce) since' "$log" &&
  grep -q 'waiting in reduce (gradient all-reduce), step 3: rank 1, 2$' "$log"
result $? 'the report lists the waiting ranks with collective and step'
cat "$temporary"/stop-0/diagnosis-*.txt >"$log" && grep -qE "^behind: $(rank 0): $stopped" "$log"
result $? 'the report is kept beside the heartbeats'
expect kill 1 137 'rank 1 with PID [0-9]+ on node .* exited on signal 9' 'a killed rank ends the run; mpirun names it'
expect kill 1 any "behind: $(rank 1): its process is gone; last heartbeat" \
  'a killed rank is named if the launcher goes on without it' --enable-recovery
expect data 1 70 "behind: $(rank 1) in data since [0-9:]+ \\([0-9]+ s\\), step 3$" 'a rank stuck in data is named'
expect receive 2 70 "behind: $(rank 2) in step since [0-9:]+ \\([0-9]+ s\\), step 3$" 'a rank whose main thread is stuck in MPI is named'
expect apart 2 70 'no rank is behind: all wait for each other' 'ranks in different collectives: all exit'
grep -q 'waiting in reduce (broadcast), step 3: rank 2$' "$log" &&
  grep -q 'waiting in reduce (gradient all-reduce), step 3: rank 0, 1$' "$log"
result $? 'the report lists the ranks by collective'
expect end 2 70 "behind: $(rank 2) in end since" 'a rank that does not finish is named'
expect fifo 1 70 'error: rank 1 of 3 .* and its heartbeat thread has hung .* does the file system respond|behind: rank 1 .* its process exists, but writes no heartbeat' \
  'a rank whose file system hangs is named'
timeout -k 5 100 mpirun --oversubscribe -np 3 "$program" evaluate "$temporary/evaluate" 0 >"$log" 2>&1 && ! [ -s "$log" ]
result $? 'rank 0 may evaluate alone past the deadline of the waiting ranks'

# A file system that hangs on the only rank: no other rank can report it. Runs beside the next test.
(timeout -k 5 100 "$program" fifo "$temporary/alone" 0 >"$temporary/alone.log" 2>&1; echo $? >"$temporary/alone.code") &
# A rank suspended for longer than three heartbeats and ten seconds, then continued: a warning, and the run succeeds.
(timeout -k 5 180 mpirun --oversubscribe -np 3 "$program" pause "$temporary/pause" 1 >"$log" 2>&1; echo $? >"$temporary/code") &
for _ in $(seq 600); do grep -qs '"step": [1-9]' "$temporary/pause/1.json" && break; sleep 0.1; done
pid=$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' "$temporary/pause/1.json")
kill -STOP "$pid"
for _ in $(seq 250); do grep -q 'has written no heartbeat' "$log" && break; sleep 0.1; done
sleep 1
kill -CONT "$pid"
wait
[ "$(cat "$temporary/code")" -eq 0 ] && [ "$(grep -cE "warning: $(rank 1) has written no heartbeat for [0-9]+ s: its process is stopped" "$log")" -eq 1 ]
result $? 'a rank that is silent for ten seconds causes one warning'
grep -qE 'rank 1 writes heartbeats again, after [0-9]+ s' "$log" && grep -qE '\[1\] warning: this process was suspended for [0-9]+ s' "$log"
result $? 'the deadlines of a rank that resumes restart'

mv "$temporary/alone.log" "$log"
[ "$(cat "$temporary/alone.code")" -eq 70 ] &&
  grep -q 'rank 0 of 1 (host .*) has been in step for .* past its deadline of 2 s, and its heartbeat thread has hung for' "$log"
result $? 'a single rank whose file system hangs reports it and exits'

echo "1..$count"
[ $failures -eq 0 ]
