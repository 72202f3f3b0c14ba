"""One life: a command into which faults are injected, and that is run again without faults until it has succeeded."""
import os
import random
import re

import support_tools
import support_world as world_of
from support_faults import SHORT, draw

USAGE, IO = 64, 74


class Life:
    """Its faults are given, or drawn: the seed of the campaign and `number` determine them."""

    def __init__(self, world, tool, seed, number, faults=None):
        self.world, self.tool, self.number = world, tool, number
        self.reference = world.reference(tool)
        moments = random.Random(f"{seed}-{number}")
        self.faults = faults or [draw(moments, self.reference.calls) for _ in range(moments.choice((1, 1, 1, 2)))]
        self.injections, self.wrong, self.warned = [], [], ""

    def run(self):
        """Returns the record of this life."""
        world_of.copy_into(self.reference.template, self.world.life)
        finished = False
        for attempt, fault in enumerate(self.faults):
            finished = self.faulted_start(attempt, fault)
            if finished or self.wrong:
                break
        if not self.wrong:
            self.last_start(finished)
        return {"life": self.number, "tool": self.tool.name, "injections": self.injections, "wrong": self.wrong}

    def faulted_start(self, attempt, fault):
        """Starts the command with a fault. Returns whether the output is finished."""
        log = f"{self.world.folder}/injected"
        if os.path.exists(log):
            os.unlink(log)
        self.checkpoints = world_of.checkpoints(self.world.life)
        start = self.world.start(self.tool, fault.environment(self.world.shim, self.world.life, log))
        hits = world_of.read(log).decode().splitlines() if os.path.exists(log) else []
        self.injections.append({**vars(fault), "hits": len(hits), "code": start.code, "seconds": round(start.seconds, 2),
                                "as_reference": start.code == self.reference.code or self.is_complete(start),
                                "message": (start.warnings() or [""])[-1]})
        self.warned += "\n".join(start.warnings())
        complete = self.is_complete(start)
        if not complete:
            self.check_end(start, fault, hits, attempt)
        self.check_files()
        return complete or start.code == self.reference.code

    def is_complete(self, start):
        """Whether the command refuses to write an output again that an earlier start has finished."""
        return start.code == USAGE and any(words in start.log for words in self.tool.complete)

    def report(self, problem, start=None):
        self.wrong.append(problem + (f"\n{start.log}{start.output}" if start else ""))

    # --- The end of a start

    def check_end(self, start, fault, hits, attempt):
        if start.hung:
            self.report("a hang", start)
        elif start.code in world_of.CRASHES:
            self.report(f"a crash: exit code {start.code}", start)
        elif start.code == self.reference.code:
            self.check_success(start, fault, attempt)
        elif start.code != IO or not hits:
            self.report(f"exit code {start.code}" + ("" if hits else ", but no fault was injected"), start)
        elif fault.error in (SHORT, "EINTR"):
            self.report(f"{fault.error} is an error", start)
        else:
            self.check_message(start, fault, hits)
        self.check_resumed(start)

    def check_message(self, start, fault, hits):
        """A message, or a warning, names the cause and the place."""
        text, said = os.strerror(fault.number()), "\n".join(start.warnings())
        names = {re.sub(r"(\.#(-#)?)?\.tmp$", "", name) for hit in hits for name in hit.split(" ", 1)[1].split("/")}
        patterns = [re.escape(name).replace(r"\#", "#").replace("#", r"\d+") for name in names]
        if text not in said:
            self.report(f"no message says \"{text}\"", start)
        elif not any(re.search(pattern, said) for pattern in patterns):
            self.report(f"no message names one of {', '.join(sorted(names))}", start)

    def check_success(self, start, fault, attempt):
        """Everything that no warning names is the same as without the fault."""
        warnings = "\n".join(start.warnings())
        changed = self.differences(with_old=True)
        if attempt == 0 and world_of.event_bytes(self.world.life) != self.reference.event_bytes:
            changed.append("run/tensorboard")
        unnamed = [path for path in changed if not self.was_warned_of(path) and not any(
            world_of.without_pid(part) in warnings for part in path.rstrip("/").split("/")[1:] or [path])]
        if unnamed:
            self.report(f"exit code {start.code}, but other files than without a fault, and no warning: {', '.join(unnamed)}", start)
        elif attempt == 0 and start.messages() != self.reference.messages:
            text = "no locks" if fault.error == "ENOLCK" else os.strerror(fault.number())
            if fault.error == SHORT or text not in warnings:
                self.report(f"exit code {start.code} and other messages, and no warning says \"{text}\"", start)

    def check_resumed(self, start):
        """A training that starts continues from the newest checkpoint."""
        if "training on" not in start.log or not self.checkpoints:
            return
        if f"at step {self.checkpoints[-1]}\n" not in start.log:
            self.report(f"training does not continue from step {self.checkpoints[-1]}", start)

    # --- Files

    def differences(self, with_old=False):
        """The paths that differ from those of an undisturbed run. Checkpoints older than those that a run keeps can be there or
        not: one that was resumed from is kept longer, one that could not be removed is removed after the next checkpoint."""
        now, expected = world_of.snapshot(self.world.life), self.reference.files
        changed = [path for path in sorted(now.keys() | expected.keys()) if now.get(path) != expected.get(path)]
        changed = [path for path in changed if not is_old_checkpoint(path, expected) or with_old and path in now]
        if world_of.records(self.world.life) != self.reference.records:
            changed.append("run/metrics.jsonl")
        return changed

    def check_files(self):
        """Every file under a final name is one of before, or one of an undisturbed run, whole."""
        before, expected = self.reference.before, self.reference.files
        for path, digest in world_of.snapshot(self.world.life).items():
            if world_of.is_temporary(path) or digest in (before.get(path), expected.get(path)) or path.endswith("/"):
                continue
            if path == "run/checkpoints/latest" and world_of.read(f"{self.world.life}/{path}").decode().strip() in self.names():
                continue
            self.report(f"{path}: neither the file of before nor that of an undisturbed run")
        for path in before.keys() | expected.keys():
            place = f"{self.world.life}/{path}"
            if "/checkpoints/step-" in path and os.path.exists(f"{os.path.dirname(place)}/manifest.json") and not os.path.exists(place):
                self.report(f"{path}: is missing from a checkpoint with a manifest")
        for path in before:
            if not os.path.exists(f"{self.world.life}/{path}") and path in expected and not is_old_checkpoint(path, expected):
                self.report(f"{path}: was there before, and is gone")

    def names(self):
        return {f"step-{step:08d}" for step in world_of.checkpoints(self.world.life)}

    def last_start(self, finished):
        """Without a fault the command succeeds, and leaves the files of an undisturbed run."""
        if not finished or self.differences() or self.left_over():
            self.checkpoints = world_of.checkpoints(self.world.life)
            start = self.world.start(self.tool, {})
            if start.code != self.reference.code and not self.is_complete(start):
                self.report(f"without a fault: exit code {start.code}", start)
            self.check_resumed(start)
        changed = [path for path in self.differences() if not self.was_warned_of(path)]
        if changed:
            self.report(f"without a fault: other files than an undisturbed run: {', '.join(changed)}")
        if self.left_over():
            self.report(f"without a fault: left over: {', '.join(self.left_over())}")

    def left_over(self):
        """The kinds of path that an undisturbed run does not leave, without temporary files that a warning named."""
        return sorted({world_of.kind(path) for path in world_of.paths(self.world.life) if not self.was_warned_of(path)} - self.reference.kinds)

    def was_warned_of(self, path):
        """Whether a warning named the temporary file, which stays until a command writes there."""
        return world_of.is_temporary(path) and world_of.without_pid(os.path.basename(path)) + ": cannot remove" in self.warned


def is_old_checkpoint(path, expected):
    """Whether the file belongs to a checkpoint older than the newest two of an undisturbed run."""
    pattern = r"run/checkpoints/(step-\d+)/"
    steps = sorted({found[1] for found in (re.match(pattern, other) for other in expected) if found})
    found = re.match(pattern, path)
    return found is not None and found[1] not in steps[-support_tools.TRAIN["checkpoint.keep"]:]
