"""What the fault campaign is made of: a world of runs that are alike, and the lives of a run, each of which is
harmed once (support_kinds.py)."""
import ctypes
import glob
import json
import os
import signal
import subprocess
import sys
import time
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import runs  # noqa: E402
from runs import Run  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS, EVERY = 60, 5
REACH = 9  # steps behind where a life begins within which it is harmed
BEAT, TIMEOUT, START_TIMEOUT = 0.2, 2, 6
SETTINGS = {
    "train.steps": STEPS,
    "train.threads": 1,
    "checkpoint.every": EVERY,
    "checkpoint.keep": 2,
    "comm.reduce": "reproducible",
    "comm.heartbeat": BEAT,
    "comm.timeout": TIMEOUT,
    "comm.checkpoint_timeout": START_TIMEOUT,  # a disk can be slow
    "comm.evaluation_timeout": TIMEOUT,
    "comm.start_timeout": START_TIMEOUT,
}
TOKEN = f"campaign-{uuid.uuid4().hex}"  # in the environment of all processes that are started here


# --- Processes ---------------------------------------------------------------------------------------------


def be_reaper():
    """Ranks whose launcher was killed become this process's children, and do not stay as zombies of nobody."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def reap():
    """Orphans that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def ours():
    """Process ids of all that was started here and lives."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and int(name) != os.getpid() and runs.process_state(name) not in ("", "Z", "X"):
                with open(f"/proc/{name}/environ", "rb") as file:
                    if TOKEN.encode() in file.read():
                        found.append(int(name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


# --- A life, and the harm done to it -----------------------------------------------------------------------


class Life:
    """One start of a run that is harmed once."""

    def __init__(self, world, kind, run, ranks, moments):
        self.world, self.kind, self.run, self.ranks, self.moments = world, kind, run, ranks, moments
        self.rank = moments.randrange(ranks)
        self.first = run.checkpoints()[-1] if run.checkpoints() else 0
        self.hit_at = self.ended_at = None  # of time.monotonic
        self.hit_step = 0
        self.note = ""  # what exactly was done, in words
        self.pids, self.code = [], None
        self.done = self.lost = None  # steps

    def steps(self):
        """Done so far; what an earlier life did behind its last checkpoint does not count."""
        return self.run.metrics_line_count() if "training on" in self.run.log_text() else self.first

    def reach(self):
        """Waits for a random moment of a random step; False where the run ended before."""
        wanted = min(self.first + 1 + self.moments.randrange(REACH), STEPS - 2)
        there = self.run.wait_for(lambda: self.steps() >= wanted)
        if there:
            self.pids = self.run.ranks()
            time.sleep(self.moments.random() * 0.02)
        return there and len(self.pids) == self.ranks and self.run.running()

    def hit(self, note):
        self.note = note
        self.hit_at = time.monotonic()
        self.hit_step = self.steps()

    def came_late(self):
        """What hit a run that was done with its last step, or about to be, need not be told."""
        return self.code == 0 and self.hit_step >= STEPS - 1

    def live(self):
        """From the start to the last process's end."""
        mark = self.run.folder + ".mark"
        self.run.environment = {"CELFORGE_CAMPAIGN": TOKEN, **self.kind.environment(self, mark)}
        self.run.start(self.ranks)
        try:
            self.kind.harm(self)
            self.code = self.run.wait()
            while ours() and time.monotonic() < self.deadline():
                reap()
                time.sleep(0.01)
            self.ended_at = time.monotonic()
        finally:
            strays = ours()
            for pid in strays:
                runs.send_signal(pid, signal.SIGKILL)
            reap()
        if os.path.exists(mark):
            with open(mark, encoding="utf-8") as file:
                moment, self.note = file.read().strip().split(" ", 1)
            os.unlink(mark)
            self.hit_at = float(moment)
        self.done = self.run.metrics_line_count()
        return [f"{len(strays)} processes left"] if strays else []

    def deadline(self):
        return (self.hit_at or time.monotonic()) + self.kind.deadline * self.world.slack

    def seconds(self):
        return self.ended_at - self.hit_at


class World:
    """What all runs of a campaign share."""

    def __init__(self, folder, slack):
        self.folder, self.slack = folder, slack  # slack: so many times what is allowed until all have ended
        self.data = runs.synth(os.path.join(folder, "data"))
        self.injector, self.flipper = (self.build(folder, name) for name in ("inject", "flip"))
        self.calls = {}  # [ranks][kind]: of rank 0 in a whole run
        self.undisturbed, self.flat_bytes = None, 0
        self.number = 0

    @staticmethod
    def build(folder, name):
        library = os.path.join(folder, f"{name}.so")
        flags = subprocess.run(["pkg-config", "--cflags", "ompi-c"], check=True, capture_output=True, text=True).stdout
        subprocess.run(["cc", "-std=c17", "-shared", "-fPIC", "-O1", "-o", library, os.path.join(HERE, f"{name}.c"),
                        *flags.split(), "-ldl"], check=True, timeout=runs.LIMIT)
        return library

    def new_run(self, name):
        return Run(os.path.join(self.folder, name), self.data, SETTINGS)

    def injection(self, run, kind, rank, at, mark):
        return {"LD_PRELOAD": self.injector, "INJECT_KIND": kind, "INJECT_RANK": str(rank), "INJECT_AT": str(at),
                "INJECT_FOLDER": run.folder, "INJECT_MARK": mark}

    def prepare(self, sizes):
        """Undisturbed runs: what all others have to end with, and how many calls there are to go wrong."""
        for ranks in sizes:
            run = self.new_run(f"undisturbed-{ranks}")
            mark = run.folder + ".calls"
            run.environment = self.injection(run, "count", 0, 0, mark)
            run.must_train(ranks)
            self.calls[ranks] = {}
            for path in glob.glob(f"{mark}.*"):
                with open(path, encoding="ascii") as file:
                    self.calls[ranks][path[len(mark) + 1:]] = int(file.read())
            content = run.last_checkpoint()
            if self.undisturbed and self.undisturbed != content:
                raise ValueError(f"left alone, {ranks} ranks end with other bytes: "
                                 f"{runs.difference(self.undisturbed, content)}")
            self.undisturbed = content
        self.flat_bytes = flat_bytes(self.undisturbed["generator.safetensors"])


def flat_bytes(content):
    """The size of a flat array of the generator: parameters begin at multiples of 16 floats."""
    header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
    spans = [tensor["data_offsets"] for name, tensor in header.items()
             if name != "__metadata__" and not name.startswith("ema.")]
    return sum((end - begin + 63) // 64 * 64 for begin, end in spans)
