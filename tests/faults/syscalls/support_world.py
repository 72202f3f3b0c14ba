"""Parts of the syscall campaign: starts of commands under the shim, and snapshots of the files that they leave."""
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import support_campaign as campaign  # noqa: E402
from support_campaign import runs  # noqa: E402

SECONDS = 60  # for a start; longer is a hang
ENVIRONMENT = {**runs.ENVIRONMENT, "GOMP_SPINCOUNT": "2000", "CELFORGE_CAMPAIGN": campaign.TOKEN}
VOLATILE = re.compile(r"(^|/)(metrics\.jsonl|tensorboard/.*|ranks/.*|lock)$")  # with times, or empty
# Lines of progress, and those that depend on how busy the machine is.
PROGRESS = re.compile(r"(info: (train|eval|translate|clips|frames) \d+(/\d+)? .*|warning: (straggler|rank \d+ ).*)$")
CRASHES = {-number for number in range(1, 65)} | {128 + number for number in range(1, 65)}


def must_run(words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=runs.LIMIT, env=ENVIRONMENT, check=False)
    if done.returncode != 0:
        raise ValueError(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")


def build_shim(folder):
    library = os.path.join(folder, "shim.so")
    sources = [os.path.join(HERE, name) for name in ("choose.c", "descriptors.c", "paths.c")]
    subprocess.run(["cc", "-std=c17", "-shared", "-fPIC", "-O1", "-o", library, *sources, "-ldl"], check=True, timeout=runs.LIMIT)
    return library


# --- Starts ----------------------------------------------------------------------------------------------


class Start:
    """One run of a command. hung: whether it had to be killed."""

    def __init__(self, command, environment, log, seconds):
        begin = time.monotonic()
        self.hung = False
        with open(log, "wb") as errors, open(f"{log}.out", "wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env={**ENVIRONMENT, **environment})
        try:
            self.code = process.wait(timeout=seconds)
            # Ranks end within seconds after their launcher.
            while campaign.campaign_processes() and time.monotonic() < begin + seconds:
                campaign.reap()
                time.sleep(0.01)
        except subprocess.TimeoutExpired:
            self.code, self.hung = "hung", True
        for pid in campaign.campaign_processes():
            self.hung = True
            runs.send_signal(pid, signal.SIGKILL)
        process.wait()
        campaign.reap()
        self.seconds = time.monotonic() - begin
        self.log, self.output = (read(path).decode(errors="replace") for path in (log, f"{log}.out"))

    def messages(self):
        """Standard error without times and progress, and standard output."""
        lines = [re.sub(r"^\d\d:\d\d:\d\d\.\d{3} ", "", line) for line in self.log.splitlines()]
        return [without_pid(line) for line in lines if not PROGRESS.search(line)] + self.output.splitlines()

    def warnings(self):
        return [line for line in self.messages() if re.search(r"(^|\] )(warning|error): |^celforge: ", line)]


# --- Files -----------------------------------------------------------------------------------------------


def read(path):
    with open(path, "rb") as file:
        return file.read()


def snapshot(folder):
    """{path relative to the folder: digest of its content}, without volatile files."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in names:
            path = os.path.relpath(os.path.join(place, name), folder)
            if not VOLATILE.search(path):
                found[path] = hashlib.sha256(read(os.path.join(place, name))).hexdigest()
        if not folders and not names:
            found[os.path.relpath(place, folder) + "/"] = "an empty folder"
    return found


def paths(folder):
    """All files and folders below the folder, relative to it."""
    return {os.path.relpath(os.path.join(place, name), folder) for place, folders, names in os.walk(folder) for name in folders + names}


def kind(path):
    """The kind of path, as in shim.h."""
    return re.sub(r"\d+", "#", path)


def without_pid(text):
    """The text, with a fixed word for the host and process in the names of temporary files."""
    return re.sub(r"\b[\d-]+\.tmp\b", "PID.tmp", text)


def is_temporary(path):
    return re.search(r"\.tmp(/|$)", path) is not None


def records(folder):
    """The records of metrics.jsonl without times, as runs.Run.metrics; None without a run."""
    if not os.path.exists(f"{folder}/run/metrics.jsonl"):
        return None
    try:
        return runs.Run(f"{folder}/run", "", {}).metrics()
    except json.JSONDecodeError as error:
        return f"a broken line: {error}"


def event_bytes(folder):
    """The total size of TensorBoard's files: equal records have equal sizes."""
    place = f"{folder}/run/tensorboard"
    names = os.listdir(place) if os.path.isdir(place) else []
    return sum(os.path.getsize(f"{place}/{name}") for name in names)


def checkpoints(folder):
    """The steps of complete checkpoints, oldest first."""
    place = f"{folder}/run/checkpoints"
    names = os.listdir(place) if os.path.isdir(place) else []
    return sorted(int(name[5:]) for name in names if re.fullmatch(r"step-\d+", name) and os.path.exists(f"{place}/{name}/manifest.json"))


def copy_into(source, target):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)


# --- References ------------------------------------------------------------------------------------------


class Reference:
    """An undisturbed run of a tool; with several ranks, one for each, whose calls are counted."""

    def __init__(self, tool, world):
        self.tool, self.calls, self.template = tool, [], f"{world.folder}/inputs/{tool.name}"
        world.prepare(tool.inputs, self.template)
        self.before = snapshot(self.template)
        for rank in range(tool.ranks):
            copy_into(self.template, world.life)
            trace = f"{world.folder}/trace"
            start = world.start(tool, {"LD_PRELOAD": world.shim, "SHIM_FOLDER": world.life, "SHIM_TRACE": trace, "SHIM_RANK": str(rank)})
            result = (start.code, snapshot(world.life), records(world.life), event_bytes(world.life), set(map(kind, paths(world.life))),
                      start.messages())
            self.calls.append(count_calls(trace))
            os.unlink(trace)
            if rank > 0 and result != self.result:
                raise ValueError(f"{tool.name}: two undisturbed runs differ: {first_difference(self.result, result)}")
            self.result = result
        self.code, self.files, self.records, self.event_bytes, self.kinds, self.messages = self.result


def first_difference(one, other):
    return next(f"{a} and {b}" for a, b in zip(one, other) if a != b)


def count_calls(trace):
    """{call: {kind: number}} of a trace."""
    calls = {}
    for line in read(trace).decode().splitlines():
        call, kind = line.split(" ", 1)
        kinds_of_call = calls.setdefault(call, {})
        kinds_of_call[kind] = kinds_of_call.get(kind, 0) + 1
    return calls


class World:
    """The folder of a campaign. All lives have the same paths, so that files that hold paths are equal."""

    def __init__(self, folder, slack):
        self.folder, self.seconds = os.path.realpath(folder), SECONDS * slack
        self.life = os.path.join(self.folder, "life")
        self.shim = build_shim(self.folder)
        self.references, self.inputs = {}, {}

    def prepare(self, makers, template):
        """Makes the inputs of a tool, or copies those of a tool with the same ones."""
        if makers in self.inputs:
            copy_into(self.inputs[makers], template)
            return
        shutil.rmtree(self.life, ignore_errors=True)
        os.makedirs(self.life)
        for make in makers:
            make(self.life)
        copy_into(self.life, template)
        self.inputs[makers] = template

    def start(self, tool, environment):
        return Start(tool.command(self.life), environment, f"{self.folder}/log", self.seconds)

    def reference(self, tool):
        if tool.name not in self.references:
            self.references[tool.name] = Reference(tool, self)
        return self.references[tool.name]
