"""Parts of the fault campaign: a World of equal runs, and Attempts: starts of a run, into each of which one fault
(support_kinds.py) is injected."""
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
REACH = 9  # a fault is injected within this many steps of the start of an attempt
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
TOKEN = f"campaign-{uuid.uuid4().hex}"  # marks all processes of this campaign, in their environment


# --- Processes ---------------------------------------------------------------------------------------------


def become_subreaper():
    """Makes this process the parent of ranks whose launcher was killed, so that it can reap them."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def reap():
    """Reaps orphans that have exited."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def campaign_processes():
    """Ids of all running processes of this campaign."""
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


# --- Attempts ----------------------------------------------------------------------------------------------


class Attempt:
    """One start of a run with one injected fault."""

    def __init__(self, world, kind, run, ranks, moments):
        self.world, self.kind, self.run, self.ranks, self.moments = world, kind, run, ranks, moments
        self.rank = moments.randrange(ranks)
        self.first = run.checkpoints()[-1] if run.checkpoints() else 0
        self.injected_at = self.ended_at = None  # time.monotonic()
        self.injected_step = 0
        self.note = ""  # describes the fault
        self.pids, self.code = [], None
        self.done = self.lost = None  # steps done, and steps after the last checkpoint

    def steps(self):
        """Steps done so far, without those that an earlier attempt did after its last checkpoint."""
        return self.run.metrics_line_count() if "training on" in self.run.log_text() else self.first

    def wait_for_random_moment(self):
        """Waits for a random moment in a random step; False if the run ended before."""
        wanted = min(self.first + 1 + self.moments.randrange(REACH), STEPS - 2)
        reached = self.run.wait_for(lambda: self.steps() >= wanted)
        if reached:
            self.pids = self.run.ranks()
            time.sleep(self.moments.random() * 0.02)
        return reached and len(self.pids) == self.ranks and self.run.running()

    def record_injection(self, note):
        self.note = note
        self.injected_at = time.monotonic()
        self.injected_step = self.steps()

    def came_too_late(self):
        """Whether the run had finished, or was about to: then it need not report the fault."""
        return self.code == 0 and self.injected_step >= STEPS - 1

    def run_to_end(self):
        """Starts the run, injects the fault, and waits until all processes have exited. Returns what went wrong."""
        mark = self.run.folder + ".mark"
        self.run.environment = {"CELFORGE_CAMPAIGN": TOKEN, **self.kind.environment(self, mark)}
        self.run.start(self.ranks)
        try:
            self.kind.inject(self)
            self.code = self.run.wait()
            while campaign_processes() and time.monotonic() < self.deadline():
                reap()
                time.sleep(0.01)
            self.ended_at = time.monotonic()
        finally:
            leftovers = campaign_processes()
            for pid in leftovers:
                runs.send_signal(pid, signal.SIGKILL)
            reap()
        if os.path.exists(mark):
            with open(mark, encoding="utf-8") as file:
                moment, self.note = file.read().strip().split(" ", 1)
            os.unlink(mark)
            self.injected_at = float(moment)
        self.done = self.run.metrics_line_count()
        return [f"{len(leftovers)} processes are left"] if leftovers else []

    def deadline(self):
        return (self.injected_at or time.monotonic()) + self.kind.deadline * self.world.slack

    def seconds(self):
        return self.ended_at - self.injected_at


class World:
    """Data, libraries and reference runs that all runs of a campaign share."""

    def __init__(self, folder, slack):
        self.folder, self.slack = folder, slack  # slack: a factor on all deadlines
        self.data = runs.synth(os.path.join(folder, "data"))
        self.injector, self.flipper = (self.build(folder, name) for name in ("inject", "flip"))
        self.calls = {}  # [ranks][kind]: calls of rank 0 in an uninterrupted run
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
        """Uninterrupted runs: their final checkpoint is the reference, and their calls are counted."""
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
                raise ValueError(f"an uninterrupted run on {ranks} ranks ends with other bytes: "
                                 f"{runs.difference(self.undisturbed, content)}")
            self.undisturbed = content
        self.flat_bytes = flat_bytes(self.undisturbed["generator.safetensors"])


def flat_bytes(content):
    """Bytes of a flat array of the generator; parameters start at multiples of 16 floats."""
    header = json.loads(content[8:8 + int.from_bytes(content[:8], "little")])
    spans = [tensor["data_offsets"] for name, tensor in header.items()
             if name != "__metadata__" and not name.startswith("ema.")]
    return sum((end - begin + 63) // 64 * 64 for begin, end in spans)
