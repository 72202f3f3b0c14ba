# Functions for the tests in this folder: TAP output, the program $celforge, and a temporary folder $work. A test sources this
# file from the repository's top folder.
celforge=$(realpath "${BUILD:-build}")/celforge
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
# Open MPI does not free all of its memory.
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

result() { # CODE NAME: the test passes if CODE is 0; else prints the last lines of out and err
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

run() { # COMMAND...: sets $code, writes the files out and err
  timeout -k 5 400 "$@" >"$work/out" 2>"$work/err" </dev/null
  code=$?
}

# The command exits with CODE, and stderr contains MESSAGE (a fixed string) and exactly one line "celforge: ...".
refuses() { # NAME CODE MESSAGE COMMAND...
  local name=$1 expected=$2 message=$3 lines
  shift 3
  run "$@"
  lines=$(grep -c '^celforge: ' "$work/err")
  [ "$code" -eq "$expected" ] && [ "$lines" -eq 1 ] && grep -qF -- "$message" "$work/err"
  result $? "$name"
  [ "$code" -eq "$expected" ] || echo "# exit code $code, expected $expected"
}

succeeds() { # NAME COMMAND...
  local name=$1
  shift
  run "$@"
  [ "$code" -eq 0 ]
  result $? "$name"
}

prints() { # NAME TEXT: the last command's standard output contains TEXT
  grep -qF -- "$2" "$work/out"
  result $? "$1"
}

# No file or folder PATH exists, and no temporary file whose name starts with it.
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

# Writes the config of a short run: a small generator without discriminators.
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
