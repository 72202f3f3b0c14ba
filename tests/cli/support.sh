# For the scripts beside it: a program, a temporary folder $work, and TAP lines. Sourced from the
# repository's top folder.
celforge=$(realpath "${BUILD:-build}")/celforge
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
# Open MPI keeps some memory to its end.
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0}
count=0 failures=0
work=$(mktemp -d "${TMPDIR:-/tmp}/celforge-test-XXXXXX")
mounts=()

finish() {
  local mount
  for mount in "${mounts[@]}"; do umount "$mount"; done
  rm -rf "$work"
}
trap finish EXIT

if ! [ -x "$celforge" ]; then
  echo "not ok 1 - $celforge is not built"
  exit 1
fi

result() { # CODE NAME; what is in out and err explains a failure
  count=$((count + 1))
  if [ "$1" -eq 0 ]; then
    echo "ok $count - $2"
  else
    echo "not ok $count - $2"
    sed 's/^/# out: /' "$work/out" 2>/dev/null | tail -n 20
    sed 's/^/# err: /' "$work/err" 2>/dev/null | tail -n 20
    failures=$((failures + 1))
  fi
}

skip() { # NAME REASON
  count=$((count + 1))
  echo "ok $count - $1 # SKIP $2"
}

run() { # COMMAND...; leaves out, err and $code
  timeout -k 5 400 "$@" >"$work/out" 2>"$work/err" </dev/null
  code=$?
}

# The command ends with CODE and says MESSAGE (a fixed text) in its one line "celforge: ...".
refuses() { # NAME CODE MESSAGE COMMAND...
  local name=$1 wanted=$2 message=$3 lines
  shift 3
  run "$@"
  lines=$(grep -c '^celforge: ' "$work/err")
  [ "$code" -eq "$wanted" ] && [ "$lines" -eq 1 ] && grep -qF -- "$message" "$work/err"
  result $? "$name"
  [ "$code" -eq "$wanted" ] || echo "# exit code $code, not $wanted"
}

succeeds() { # NAME COMMAND...
  local name=$1
  shift
  run "$@"
  [ "$code" -eq 0 ]
  result $? "$name"
}

says() { # NAME TEXT: the last command's standard output holds it
  grep -qF -- "$2" "$work/out"
  result $? "$1"
}

# Nothing is left under any of the names, nor temporary files beside them.
nothing_left() { # NAME PATH...
  local name=$1 path left=0
  shift
  for path; do
    [ -e "$path" ] && left=1 && echo "# left: $path"
    compgen -G "$path*.tmp*" >/dev/null && left=1 && echo "# left: $(compgen -G "$path*.tmp*")"
  done
  result $left "$name"
}

done_testing() {
  echo "1..$count"
  [ "$failures" -eq 0 ]
  exit
}

# A run that takes a moment: a small generator without discriminators.
tiny_config() { # FILE DATA RUN
  cat >"$1" <<CONFIG
run:
  dir: $3
data:
  path: $2
model:
  channels: 4
  blocks: 1
loss:
  adversarial_weight: 0
train:
  steps: 4
  global_batch: 2
checkpoint:
  every: 2
metrics:
  every: 1
samples:
  every: 0
CONFIG
}
