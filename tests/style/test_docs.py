#!/usr/bin/python3
"""Files and folders that the docs, the README and comments name exist."""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOP = "base|engine|comm|data|checkpoints|trainer|tests|configs|docs|slurm"
PATH = re.compile(rf"(?<![\w/.-])(?:{TOP})/[\w./-]*\w")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#([^)\s]+))?\)")
CREATED = re.compile(r"^(runs|datasets)/|^data/(demo|set|clips)\b")


def tracked(*patterns):
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", *patterns], cwd=ROOT, capture_output=True, text=True,
                           check=True).stdout.splitlines()
    return [name for name in names if os.path.isfile(os.path.join(ROOT, name))]


def read(name):
    with open(os.path.join(ROOT, name), encoding="utf-8") as file:
        return file.read()


def exists(path):
    full = os.path.join(ROOT, path)
    return os.path.exists(full) or any(os.path.exists(full + ending) for ending in (".c", ".h", ".cu"))


def missing_paths():
    """Paths in prose and comments; an ending may be left away (comm/nccl)."""
    for name in tracked("*.md", "*.c", "*.h", "*.cu", "*.cc", "*.yaml", "*.py", "*.sh", "Makefile"):
        if name.startswith("tests/style/"):
            continue
        text = read(name)
        if name.endswith((".c", ".h", ".cu", ".cc")):
            text = "\n".join(re.findall(r"/\*.*?\*/", text, re.S))
        elif name.endswith((".py", ".sh", ".yaml")) or name == "Makefile":
            text = "\n".join(re.findall(r"^\s*#.*$", text, re.M))
        for path in PATH.findall(text):
            if not CREATED.match(path) and not exists(path) and "NAME" not in path and "ROOM" not in path:
                yield f"{name}: {path}"


def anchors(name):
    """GitHub's anchors of a page's headings."""
    for heading in re.findall(r"^#+ (.*)$", read(name), re.M):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def broken_links():
    for name in tracked("*.md"):
        for path, anchor in LINK.findall(read(name)) + [("", a) for a in re.findall(r"\]\(#([^)]+)\)", read(name))]:
            target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            if not os.path.exists(os.path.join(ROOT, target)):
                yield f"{name}: {path}"
            elif anchor and target.endswith(".md") and anchor not in anchors(target):
                yield f"{name}: {path}#{anchor}"


def main():
    failed = 0
    for number, (name, problems) in enumerate((("files that docs and comments name exist", sorted(set(missing_paths()))),
                                               ("links of the docs lead somewhere", sorted(broken_links()))), 1):
        failed += bool(problems)
        print(f"{'not ok' if problems else 'ok'} {number} - {name}")
        for problem in problems:
            print(f"# {problem}")
    print("1..2")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
