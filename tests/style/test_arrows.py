#!/usr/bin/python3
"""The arrows between folders: no cycle of folders, no cycle of files but one, and no include against the Makefile's table.

Cycles are those of calls and data: `nm` on the objects of a build says which object defines what another one needs."""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OBJECTS = os.path.join(os.path.abspath(os.environ.get("BUILD", "build")), "obj")
TOP = ("base", "engine", "comm", "data", "checkpoints", "trainer")
# The gradient of a broadcast is a sum, and that of a sum is a broadcast.
CYCLES_ALLOWED = [{"engine/ops/elementwise", "engine/ops/reduce"}]


def object_symbols():
    """{object: (defined, needed)}; objects are named after their sources, without the ending."""
    symbols = {}
    for folder in TOP:
        for path, _, names in os.walk(os.path.join(OBJECTS, folder)):
            for name in (n for n in names if n.endswith(".o")):
                full = os.path.join(path, name)
                source = os.path.relpath(full, OBJECTS)[:-2]
                if not any(os.path.exists(os.path.join(ROOT, source + ending)) for ending in ("", ".c")):
                    continue  # left behind by a file that has moved
                lines = subprocess.run(["nm", full], capture_output=True, text=True, check=True).stdout.splitlines()
                words = [line.split() for line in lines]
                symbols[source] = ({w[2] for w in words if len(w) == 3 and w[1] in "TDBRCVW"},
                                   {w[-1] for w in words if w[-2] == "U"})
    return symbols


def call_edges(symbols):
    """{object: {object it uses: names}}"""
    home = {name: source for source, (defined, _) in symbols.items() for name in defined}
    edges = {source: {} for source in symbols}
    for source, (_, needed) in symbols.items():
        for name in needed:
            if name in home and home[name] != source:
                edges[source].setdefault(home[name], set()).add(name)
    return edges


def folder_edges(edges):
    """Edges between folders; a folder is not an edge to itself."""
    folders = {}
    for source, uses in edges.items():
        for used, names in uses.items():
            a, b = os.path.dirname(source), os.path.dirname(used)
            if a != b:
                folders.setdefault(a, {}).setdefault(b, set()).update(names)
    return folders


def cycles(edges):
    """Strongly connected components of more than one node (Tarjan 1972)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for used in edges.get(node, {}):
            if used not in index:
                visit(used)
                low[node] = min(low[node], low[used])
            elif used in stack:
                low[node] = min(low[node], index[used])
        if low[node] == index[node]:
            component = set()
            while node not in component:
                component.add(stack.pop())
            if len(component) > 1:
                found.append(component)

    sys.setrecursionlimit(10000)
    for node in list(edges):
        if node not in index:
            visit(node)
    return found


def explain(component, edges):
    lines = [" ".join(sorted(component))]
    for a in sorted(component):
        lines += [f"  {a} -> {b}: {', '.join(sorted(names)[:4])}"
                  for b, names in sorted(edges.get(a, {}).items()) if b in component]
    return "\n".join(lines)


def allowed_uses():
    """The Makefile's table: {room: every room that it may include, itself too}"""
    with open(os.path.join(ROOT, "Makefile"), encoding="utf-8") as file:
        table = {room: uses.split() for room, uses in re.findall(r"^uses_(\S+)\s*:=(.*)$", file.read(), re.M)}

    def closure(room):
        return {room}.union(*(closure(used) for used in table[room]))
    return {room: closure(room) for room in table}


def room_of(path, rooms):
    return max((room for room in rooms if path.startswith(room + "/")), key=len, default=None)


def wrong_includes(uses):
    wrong = []
    for folder in TOP:
        for path, _, names in os.walk(os.path.join(ROOT, folder)):
            for name in (n for n in names if n.endswith((".c", ".h", ".cu"))):
                full = os.path.join(path, name)
                here = os.path.relpath(full, ROOT)
                with open(full, encoding="utf-8") as file:
                    included = re.findall(r'^#include "([^"]+)"', file.read(), re.M)
                for header in included:
                    if room_of(header, uses) not in uses[room_of(here, uses)]:
                        wrong.append(f"{here} includes {header}")
    return wrong


def main():
    failed = 0

    def check(number, bad, name):
        nonlocal failed
        failed += bool(bad)
        print(f"{'not ok' if bad else 'ok'} {number} - {name}")
        for text in bad:
            print("".join(f"# {line}\n" for line in text.splitlines()), end="")

    edges = call_edges(object_symbols())
    folders = folder_edges(edges)
    uses = allowed_uses()
    check(1, [] if len(edges) > 100 and len(uses) > 10 else [f"{len(edges)} objects in {OBJECTS}, {len(uses)} rooms"],
          "there are objects and a table to look at")
    check(2, [explain(c, folders) for c in cycles(folders)], "no cycle of folders")
    check(3, [explain(c, edges) for c in cycles(edges) if c not in CYCLES_ALLOWED],
          "no cycle of files but elementwise and reduce")
    check(4, wrong_includes(uses), "no include against the Makefile's table of rooms")
    print("1..4")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
