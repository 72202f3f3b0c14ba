"""Parts of the soak: the schedule of faults, one long run that they hit, and samples of its processes and of its folder."""
import ctypes
import json
import os
import random
import resource
import shutil
import signal
import struct
import time
import zlib

import support_campaign as campaign
from support_campaign import Run, World, runs

EVERY, METRICS_EVERY = 25, 5
BEAT = 0.2
# Changes of the clock, in seconds: a leap second, NTP after a long pause, a wrong time zone, a wrong or an empty battery.
JUMPS = [sign * seconds for sign in (1, -1) for seconds in (1, 90, 3600, 86400, 10 * 365 * 86400)]
LONG_LIFE = 10  # every LONG_LIFE-th life (odd and even in turn) is LONGER times as long as the others
LONGER = 12
KINDS = {
    "kill": "`SIGKILL` to a rank",
    "node": "`SIGKILL` to the launcher and all ranks, then again while the next start is under way",
    "signal": "`TERM`, `INT`, `USR1` or `USR2` to all ranks",
    "stop": "`SIGSTOP` to a rank beyond the deadline; a rank alone is continued",
    "disk": "the disk becomes full",
    "clock": "the clock jumps by 1 s to 10 years, forwards or backwards",
}
# The allocator returns freed memory at once: otherwise its caches grow for hundreds of steps and hide a leak.
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "32768", "MALLOC_TRIM_THRESHOLD_": "65536"}
PROGRAM = runs.CELFORGE
LIBC = ctypes.CDLL(None, use_errno=True)


def settings(steps, timeout):
    """A very small GAN, in a run that uses everything a run has."""
    return {
        "model.norm": "none",
        "model.image_layers": 1,
        "model.video": False,
        "model.spectral_norm": False,
        "loss.r1": 0,
        "optim.ema": 0.99,
        "train.steps": steps,
        "train.global_batch": 2,
        "train.threads": 1,
        "checkpoint.every": EVERY,
        "checkpoint.keep": 3,
        "metrics.every": METRICS_EVERY,
        "samples.every": max(20, steps // 100),
        "samples.clips": 2,
        "comm.reduce": "reproducible",
        "comm.heartbeat": BEAT,
        "comm.timeout": timeout,
        "comm.checkpoint_timeout": 4 * timeout,
        "comm.evaluation_timeout": 4 * timeout,
        "comm.start_timeout": 8 * timeout,
    }


def schedule(steps, seed):
    """[(step, kind)] in ascending order: a function of its arguments. "clock" leaves a life running; the others end it."""
    moments = random.Random(f"{seed} schedule")
    deaths = max(5, steps // 250)
    kinds = [("kill", "node", "signal", "stop", "disk")[i % 5] for i in range(deaths)]
    moments.shuffle(kinds)
    gaps = [(0.3 + moments.expovariate(1)) * (LONGER if is_long(i) else 1) for i in range(deaths + 1)]
    room, total, at, plan = steps - 2 * EVERY, sum(gaps), 0, []
    for kind, gap in zip(kinds, gaps):
        at += gap
        plan.append((int(EVERY / 2 + room * at / total), kind))
    jumps = max(3, steps // 200)
    plan += [(10 + int((steps - 20) * (i + moments.random()) / jumps), "clock") for i in range(jumps)]
    return sorted(plan)


def is_long(life):
    return life % (LONG_LIFE + 1) == LONG_LIFE // 2


class Disk:
    """A small file system of its own, or a folder where mounting is not permitted."""

    def __init__(self, folder, megabytes, is_needed=True):
        self.folder, self.filler = folder, os.path.join(folder, "filler")
        os.makedirs(folder, exist_ok=True)
        self.free()
        self.is_small = os.path.ismount(folder) or (is_needed and LIBC.mount(
            b"celforge-soak", folder.encode(), b"tmpfs", 0, f"size={megabytes}m".encode()) == 0)

    def fill(self, spare, pids):
        """Leaves `spare` bytes; without a file system of its own, files of these processes can no longer grow."""
        if not self.is_small:
            for pid in pids:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (spare, resource.RLIM_INFINITY))
            return f"files limited to {spare} bytes"
        with open(self.filler, "ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
            file.truncate(max(0, file.seek(0, os.SEEK_END) - spare))
        return f"full but for {spare} bytes"

    def free(self):
        if os.path.exists(self.filler):
            os.unlink(self.filler)

    def unmount(self):
        """Its content is gone then."""
        if self.is_small:
            LIBC.umount2(self.folder.encode(), 2)  # MNT_DETACH


class Clock:
    """The file through which clock.c learns by how much the clock is wrong."""

    def __init__(self, path):
        self.path, self.shift = path, 0
        self.set(0)

    def set(self, seconds):
        """In place, because processes map the file."""
        self.shift = seconds
        with open(self.path, "r+b" if os.path.exists(self.path) else "wb") as file:
            file.write(struct.pack("q", seconds))


class Soak:
    """One run of many lives. Everything about it is in `folder`, so that the next process continues it."""

    def __init__(self, folder, steps, seed, timeout, slack):
        self.folder, self.steps, self.seed, self.timeout, self.slack = folder, steps, seed, timeout, slack
        os.makedirs(folder, exist_ok=True)
        name = zlib.crc32(os.path.abspath(folder).encode())
        for campaign.TOKEN in (f"celforge-undisturbed-{name:08x}", f"celforge-soak-{name:08x}"):
            end_leftovers()  # of an earlier process
        if not os.path.exists(self.path("celforge")):  # its own copy: a later build must not change a run under way
            shutil.copy(PROGRAM, self.path("celforge"))
        runs.CELFORGE = self.path("celforge")
        self.state = {"steps": steps, "seed": seed, "life": 0, "event": 0, "starts": 0, "seconds": 0}
        if os.path.exists(self.path("state.json")):
            with open(self.path("state.json"), encoding="utf-8") as file:
                self.state = json.load(file)
            if (self.state["steps"], self.state["seed"]) != (steps, seed):
                raise ValueError(f"{folder} holds a soak of {self.state['steps']} steps with seed {self.state['seed']}")
        else:
            runs.synth(self.path("data"), size="16x16")
        self.warm_up = settings(steps, timeout)["samples.every"] + 50
        self.plan = schedule(steps, seed)
        self.clock = Clock(self.path("clock"))
        self.disk = Disk(self.path("disk"), 24 + steps // 500, is_needed="wrong" not in self.state)
        self.run = self.new_run(os.path.join(self.disk.folder, "run"), "run")
        if self.state["life"] and "wrong" not in self.state and not self.run.checkpoints():
            raise ValueError(f"{self.disk.folder}: the run is gone (it lay in memory): start again in another folder")
        library = World.build(folder, "clock")
        self.run.environment = {"CELFORGE_CAMPAIGN": campaign.TOKEN, "LD_PRELOAD": library, "CLOCK_FILE": self.clock.path,
                                **ALLOCATOR}
        self.reference = self.new_run(self.path("undisturbed"), "undisturbed")
        self.reference.environment = {"CELFORGE_CAMPAIGN": campaign.TOKEN.replace("soak", "undisturbed")}
        self.samples, self.faults = self.read("samples.jsonl"), self.read("faults.jsonl")
        self.first, self.pids, self.wrong = 0, [], []

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def new_run(self, folder, name):
        run = Run(folder, self.path("data"), settings(self.steps, self.timeout))
        run.config, run.log = self.path(f"{name}.yaml"), self.path(f"{name}.log")
        return run

    # --- Records -------------------------------------------------------------------------------------------

    def read(self, name):
        try:
            with open(self.path(name), encoding="utf-8") as file:
                return [json.loads(line) for line in file if line.endswith("\n")]
        except FileNotFoundError:
            return []

    def append(self, name, records, record):
        records.append(record)
        with open(self.path(name), "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def save(self):
        with open(self.path("state.json.tmp"), "w", encoding="utf-8") as file:
            json.dump(self.state, file)
        os.rename(self.path("state.json.tmp"), self.path("state.json"))

    def record_fault(self, kind, note, wrong, **more):
        record = {"kind": kind, "life": self.state["life"], "ranks": self.run.count, "step": self.step(), "note": note,
                  "wrong": wrong, **more}
        self.append("faults.jsonl", self.faults, record)
        print(f"step {record['step']:6}  {kind:7} {self.run.count} rank{'s' if self.run.count > 1 else ' '}  {note}"
              + "".join(f"\n    {line}" for text in wrong for line in text.splitlines()), flush=True)

    def complain(self, text):
        self.record_fault("none", "nothing was injected", [f"{text}\n{self.run.log_text()}"])

    # --- One life ------------------------------------------------------------------------------------------

    def step(self):
        """The last step in metrics.jsonl: up to METRICS_EVERY - 1 older than the run."""
        try:
            with open(self.run.path("metrics.jsonl"), "rb") as file:
                file.seek(max(0, os.path.getsize(file.name) - 4096))
                lines = [line for line in file.read().split(b"\n")[:-1] if line.startswith(b"{") and line.endswith(b"}")]
            return json.loads(lines[-1])["step"] if lines else 0
        except FileNotFoundError:
            return 0

    def begin(self):
        """Starts the run on one rank and on two in turn, and waits until it trains."""
        newest = self.run.checkpoints()
        self.state["starts"] += 1
        self.run.start(1 + self.state["life"] % 2)
        while self.run.running() and "training on" not in self.run.log_text():
            time.sleep(0.02)
        if not self.run.running():
            if self.run.process.returncode != 0:
                self.complain(f"the start ends with {self.run.process.returncode}")
            return False
        self.pids = self.run.ranks()
        self.first = newest[-1] if newest else 0
        text = self.run.log_text()
        if newest and (f"at step {self.first}" not in text or "trying the previous checkpoint" in text):
            self.complain(f"it does not resume from the newest checkpoint, step {self.first}")
        return True

    def live(self):
        """One life: from a start to a fault that ends it, or to the end of the run. Returns whether the run is done."""
        if not self.begin():
            self.state["life"] += 1
            return self.run.process.returncode == 0
        sampled, progress, last = -1, time.monotonic(), -1
        while self.run.running():
            step = self.step()
            if step != last:
                last, progress = step, time.monotonic()
            if step >= sampled + 2 * METRICS_EVERY and step > self.first:
                sampled = step
                self.sample(step)
            if self.is_due(step) and self.inject(step):
                self.state["life"] += 1
                return False
            if time.monotonic() > progress + 16 * self.timeout * self.slack:
                self.complain(f"no step since {time.monotonic() - progress:.0f} s")
                end_leftovers()
            time.sleep(0.02)
        code = self.run.process.returncode
        if code != 0:
            self.complain(f"exit code {code}")
            end_leftovers()
            self.state["life"] += 1
        return code == 0

    def is_due(self, step):
        """Never before the life has done a step of its own."""
        return self.state["event"] < len(self.plan) and step >= self.plan[self.state["event"]][0] and step > self.first

    def inject(self, step):
        """Injects what is due. Returns whether it ended the life."""
        kind = self.plan[self.state["event"]][1]
        moments = random.Random(f"{self.seed} {self.state['event']}")
        self.state["event"] += 1
        time.sleep(moments.random() * 0.05)
        if kind == "clock":
            self.clock.set(moments.choice([jump for jump in JUMPS if jump != self.clock.shift]))
            self.record_fault(kind, f"the clock is wrong by {self.clock.shift} s", [])
            return False
        return getattr(self, f"inject_{kind}")(moments)

    def inject_kill(self, moments):
        rank = moments.randrange(len(self.pids))
        runs.send_signal(self.pids[rank], signal.SIGKILL)
        return self.expect("kill", f"SIGKILL to rank {rank}", -signal.SIGKILL if self.run.count == 1 else 128 + signal.SIGKILL)

    def inject_node(self, moments):
        for again in (False, True):
            if again:
                self.state["starts"] += 1
                self.run.start(self.run.count)
                time.sleep(moments.random() * 1.5)
            for pid in [self.run.process.pid, *self.run.ranks()]:
                runs.send_signal(pid, signal.SIGKILL)
            self.expect("node", "SIGKILL to all" + (" during a start" if again else ""), -signal.SIGKILL)
        return True

    def inject_signal(self, moments):
        number = moments.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2))
        for pid in self.pids:
            runs.send_signal(pid, number)
        return self.expect("signal", number.name, 75)

    def inject_stop(self, moments):
        rank = moments.randrange(len(self.pids))
        runs.send_signal(self.pids[rank], signal.SIGSTOP)
        if self.run.count > 1:
            return self.expect("stop", f"SIGSTOP to rank {rank}", 70, self.timeout + 2 * BEAT)
        time.sleep(self.timeout + 1)
        runs.send_signal(self.pids[rank], signal.SIGCONT)
        self.record_fault("stop", f"SIGSTOP for {self.timeout + 1} s, then SIGCONT", [])
        return False

    def inject_disk(self, moments):
        note = self.disk.fill(moments.choice((0, moments.randrange(200000))), self.pids)
        try:
            return self.expect("disk", note, 74, self.timeout)
        finally:
            self.disk.free()

    def expect(self, kind, note, code, deadline=0):
        """Waits until all processes have exited; records the fault, and what is wrong with that end. Returns True."""
        began, limit = time.monotonic(), (10 + deadline) * self.slack
        while (self.run.running() or campaign.campaign_processes()) and time.monotonic() < began + limit:
            time.sleep(0.02)
        seconds = time.monotonic() - began
        wrong = end_leftovers()
        got = self.run.wait()
        if got != code:
            wrong.append(f"exit code {got}, not {code}\n{self.run.log_text()}")
        done, kept = self.step(), self.run.checkpoints()
        lost = done - (kept[-1] if kept else 0)
        self.record_fault(kind, note, wrong, seconds=round(seconds, 2), code=got, lost=max(0, lost))
        return True

    # --- Samples -------------------------------------------------------------------------------------------

    def sample(self, step):
        """One line of samples.jsonl for each rank. Files and bytes leave out what grows by design: metrics, sheets, events."""
        files, size = survey(self.run.folder)
        for rank, pid in enumerate(self.pids):
            try:
                with open(f"/proc/{pid}/status", encoding="ascii") as file:
                    status = dict(line.split(":", 1) for line in file)
                descriptors = len(os.listdir(f"/proc/{pid}/fd"))
                rss, threads = int(status["VmRSS"].split()[0]), int(status["Threads"])
            except (OSError, KeyError):  # it is about to end
                return
            self.append("samples.jsonl", self.samples, {
                "step": step, "life": self.state["life"], "ranks": self.run.count, "rank": rank, "age": step - self.first, "rss": rss,
                "descriptors": descriptors, "threads": threads, "files": files, "bytes": size})


def survey(folder):
    """Number and bytes of the files of a run without metrics.jsonl, the sheets in samples/ and the events in tensorboard/."""
    files = size = 0
    for place, _, names in os.walk(folder):
        kind = os.path.basename(place)
        for name in names:
            if name == "metrics.jsonl" or (kind, name[-4:]) == ("samples", ".png") or (kind, name[:6]) == ("tensorboard", "events"):
                continue
            try:
                size += os.path.getsize(os.path.join(place, name))
                files += 1
            except FileNotFoundError:  # renamed or removed meanwhile
                pass
    return files, size


def leftovers(folder):
    """Temporary files and folders."""
    return [os.path.join(place, name) for place, folders, names in os.walk(folder) for name in [*folders, *names]
            if name.endswith(".tmp")]


def end_leftovers():
    """Kills processes that are left of this soak. Returns what was wrong."""
    left = campaign.campaign_processes()
    for pid in left:
        runs.send_signal(pid, signal.SIGKILL)
    return [f"{len(left)} processes are left"] if left else []
