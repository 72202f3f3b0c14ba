#!/usr/bin/python3
"""Waits and deadlines use the monotonic clock: the wall clock, which jumps, is read in two places and never waited on."""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOP = ("base", "engine", "comm", "data", "checkpoints", "trainer")
# Functions that wait on the wall clock or read it, and the files that may.
RULES = (
    (r"\bCLOCK_REALTIME\b", {"base/thread.c": "clock_wall_seconds", "base/log.c": "times in the log"}),
    (r"\bpthread_cond_timedwait\b", {"base/thread.c": "condition_wait_until, on the monotonic clock"}),
    (r"\bpthread_cond_init\b|\bPTHREAD_COND_INITIALIZER\b", {"base/thread.c": "condition_init"}),
    (r"\btime\(NULL\)", {"trainer/export/export.c": "date of a model"}),
    (r"\bpthread_timedjoin_np\b|\bsem_timedwait\b|\bpthread_mutex_timedlock\b|\bgettimeofday\b|\bst_mtim", {}),
)


def code_of(path):
    """The file without comments."""
    with open(path, encoding="utf-8") as file:
        return re.sub(r"/\*.*?\*/|//[^\n]*", lambda m: re.sub(r"[^\n]", " ", m.group()), file.read(), flags=re.S)


def main():
    found, used = [], set()
    paths = (os.path.join(folder, name) for top in TOP for folder, _, names in os.walk(os.path.join(ROOT, top)) for name in names)
    for path in sorted(path for path in paths if path.endswith((".c", ".h", ".cu"))):
        name, code = os.path.relpath(path, ROOT), code_of(path)
        for pattern, allowed in RULES:
            for match in re.finditer(pattern, code):
                if name in allowed:
                    used.add((pattern, name))
                else:
                    found.append(f"{name}:{code.count(chr(10), 0, match.start()) + 1}: {match.group()}")
    unused = [f"{name}: {pattern}" for pattern, allowed in RULES for name in allowed if (pattern, name) not in used]
    for number, (what, lines) in enumerate((("no wait on the wall clock", found), ("no exception without use", unused)), 1):
        print(f"{'not ok' if lines else 'ok'} {number} - {what}")
        for line in lines:
            print(f"# {line}")
    print("1..2")
    return 1 if found or unused else 0


if __name__ == "__main__":
    sys.exit(main())
