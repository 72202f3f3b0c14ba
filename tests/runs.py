"""Support for tests of whole training runs: TAP, small configs, celforge as a process, and the files of a run folder."""
import json
import math
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

CELFORGE = os.path.abspath(os.path.join(os.environ.get("BUILD", "build"), "celforge"))
LIMIT = 600  # seconds per run; an emulated GPU on a busy machine takes minutes

ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")

# A GAN step of a few milliseconds that uses every source of random numbers.
TINY = {
    "run.seed": 7,
    "data.flip": True,
    "model.channels": 4,
    "model.blocks": 1,
    "model.noise_channels": 1,
    "model.image_scales": 1,
    "model.image_channels": 4,
    "model.image_layers": 2,
    "model.video_channels": 4,
    "model.video_layers": 2,
    "model.spectral_norm": True,
    "loss.r1": 0.1,
    "loss.r1_interval": 3,
    "optim.clip": 5,
    "optim.pretrain_steps": 3,
    "optim.adversarial_ramp_steps": 4,
    "train.global_batch": 4,
    "train.micro_batch": 1,
    "metrics.every": 1,
    "samples.every": 0,
}


# With TINY and data.target_path: unpaired training that uses everything but VGG19. The probability of augmentation first rises,
# then falls.
UNPAIRED = {
    "model.conditional": False,
    "model.refinements": 1,
    "model.grey_view": True,
    "model.smooth_view": True,
    "loss.adversarial": "hinge",
    "loss.l1": 0,
    "loss.temporal": 0,
    "loss.patch_nce": 1,
    "loss.patch_nce_flip": True,
    "loss.color": 8,
    "loss.identity": 2,
    "loss.edge_negatives": 0.5,
    "loss.motion_consistency": 2,
    "loss.flow_consistency": 2,
    "augment.mode": "adaptive",
    "augment.probability": 0.3,
    "augment.target": -0.2,
    "augment.ramp_clips": 100,
    "optim.pretrain_steps": 0,
}


def crc32c_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC32C = crc32c_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ CRC32C[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


# The convolutions of VGG19 that loss.perceptual reads: torchvision's layer index, output channels.
PERCEPTUAL_LAYERS = [(0, 64), (2, 64), (5, 128), (7, 128), (10, 256), (12, 256), (14, 256), (16, 256), (19, 512), (21, 512),
                     (23, 512), (25, 512), (28, 512)]

STARTED = []  # processes that main() kills after each test


def send_signal(pid, number):
    """Sends a signal. Returns False if the process has ended."""
    if process_state(pid) in ("", "Z", "X"):
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def process_state(pid, thread=None):
    """Returns the state letter of proc(5), or "" if the process does not exist."""
    try:
        with open(f"/proc/{pid}/task/{thread or pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_stopped(pid):
    """Returns True if no thread of the process runs or waits for a disk."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return all(process_state(pid, thread) in ("", "T", "t", "Z", "X") for thread in threads)


def wait_until(condition, what):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"timed out after {LIMIT} s waiting for {what}"
        time.sleep(0.0005)


class Tap:
    def __init__(self):
        self.count = self.failed = 0

    def check(self, good, name, detail=""):
        self.count += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.count} - {name}", flush=True)
        if not good and detail:
            print("\n".join(f"# {line}" for line in str(detail).splitlines()), flush=True)

    def skip(self, name, reason):
        self.count += 1
        print(f"ok {self.count} - {name} # SKIP {reason}", flush=True)

    def end(self):
        print(f"1..{self.count}")
        sys.exit(1 if self.failed else 0)


def main(tests):
    """Runs test(tap, folder) for each test, each in a temporary folder of its own. Its docstring names it in failures."""
    tap = Tap()
    if not os.access(CELFORGE, os.X_OK):
        tap.check(False, f"{CELFORGE} is not built")
        tap.end()
    for test in tests:
        folder = tempfile.mkdtemp(prefix="celforge-runs-")
        try:
            test(tap, folder)
        except (OSError, ValueError, KeyError, AssertionError, subprocess.SubprocessError) as error:
            tap.check(False, test.__doc__, f"{type(error).__name__}: {error}")
        finally:
            for process in STARTED:  # left by a test that failed
                if process.poll() is None:
                    process.kill()
            STARTED.clear()
            shutil.rmtree(folder, ignore_errors=True)
    tap.end()


def reason_without_gpu():
    """Returns the reason why no GPU can be used, or None."""
    keys = {"train.device": "cuda", "loss.adversarial_weight": 0, "model.channels": 4, "model.blocks": 0}
    settings = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
    probe = subprocess.run([CELFORGE, "bench", "step", "configs/demo.yaml", *settings, "--steps", "1", "--frames", "1",
                            "--size", "32x32"], capture_output=True, timeout=LIMIT, env=ENVIRONMENT, text=True, check=False)
    message = (probe.stderr.strip().splitlines() or [""])[-1]
    return message if probe.returncode == 64 and "train.device: cuda" in message else None


def main_on_gpu(tests):
    """Like main(), but skips every test if there is no GPU."""
    reason = reason_without_gpu() if os.access(CELFORGE, os.X_OK) else None
    if not reason:
        main(tests)
    for number, test in enumerate(tests, 1):
        print(f"ok {number} - {test.__doc__} # SKIP {reason}")
    print(f"1..{len(tests)}")


def synth(folder, seed=1, size="32x32"):
    subprocess.run([CELFORGE, "synth", folder, "--clips", "12", "--frames", "4", "--size", size,
                    "--threads", "1", "--seed", str(seed)],
                   check=True, capture_output=True, timeout=LIMIT, env=ENVIRONMENT)
    return folder


def write_perceptual_weights(path, seed):
    """Writes random VGG19 weights in bf16 with absolute values of 2^-6 to 2^-4 (upper byte: sign, seven bits of exponent)."""
    noise, header, offset, inputs = random.Random(seed), {}, 0, 3
    for place, width in PERCEPTUAL_LAYERS:
        for name, shape in (("weight", [width, inputs, 3, 3]), ("bias", [width])):
            end = offset + 2 * math.prod(shape)
            header[f"features.{place}.{name}"] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
            offset = end
        inputs = width
    values = bytearray(offset)
    values[0::2] = noise.randbytes(offset // 2)
    values[1::2] = noise.randbytes(offset // 2).translate(bytes(0x3C | i & 0x80 for i in range(256)))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + values)
    return path


class Run:
    """A run folder, and the training processes that use it, one at a time."""

    def __init__(self, folder, data, settings):
        self.folder = folder
        self.settings = {**TINY, "run.dir": folder, "data.path": data, **settings}
        self.config = folder + ".yaml"
        self.log = folder + ".log"
        self.process = None
        self.count = 1  # of ranks
        self.environment = {}  # added to ENVIRONMENT
        self.unset_variables = ()  # removed from it

    def write_config(self):
        sections = {}
        for name, value in self.settings.items():
            section, key = name.split(".")
            sections.setdefault(section, {})[key] = value
        with open(self.config, "w", encoding="utf-8") as file:
            json.dump(sections, file, indent=1)  # JSON is YAML

    def start(self, ranks=1, resume="auto"):
        self.write_config()
        self.count = ranks
        command = [CELFORGE, "train", self.config, "--resume", resume]
        if ranks > 1:
            command = ["mpirun", "--oversubscribe", "-np", str(ranks)] + command
        variables = {**ENVIRONMENT, **self.environment}
        environment = {key: value for key, value in variables.items() if key not in self.unset_variables}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        STARTED.append(self.process)
        return self

    def wait(self):
        try:
            return self.process.wait(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return f"timed out after {LIMIT} s"

    def train(self, ranks=1, resume="auto"):
        return self.start(ranks, resume).wait()

    def must_train(self, ranks=1, resume="auto"):
        code = self.train(ranks, resume)
        assert code == 0, f"exit code {code}\n{self.log_text()}"
        return self

    def ranks(self):
        """Returns the process ids of the ranks that run: mpirun's children, or the process itself."""
        if self.count == 1:
            return [self.process.pid]
        try:
            with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children", encoding="ascii") as file:
                return [int(child) for child in file.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            return []

    def running(self):
        return self.process.poll() is None

    def wait_for(self, condition):
        """Waits until the condition holds (returns True) or the process has ended (False)."""
        deadline = time.monotonic() + LIMIT
        while self.running():
            if condition():
                return True
            assert time.monotonic() < deadline, f"timed out after {LIMIT} s\n{self.log_text()}"
            time.sleep(0.0005)
        return False

    def stop_ranks_when(self, condition, delay=0.0):
        """Stops all ranks while the condition holds, until continue_ranks(). Returns False if the run ended first. The
        condition is checked again once all have stopped, so a slow machine does not change the state they stop in."""
        while self.wait_for(condition):
            time.sleep(delay)
            pids = [pid for pid in self.ranks() if send_signal(pid, signal.SIGSTOP)]
            wait_until(lambda: all(map(is_stopped, pids)), "all ranks to stop")
            if len(pids) == self.count and self.running() and condition():
                return True
            self.continue_ranks()
            time.sleep(0.001)
        return False

    def continue_ranks(self):
        for pid in self.ranks():
            send_signal(pid, signal.SIGCONT)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        return self.wait()

    def log_text(self):
        """Returns stdout and stderr of the last process so far."""
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read()

    # Files of the run folder.

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def checkpoints(self):
        """Returns the steps of all complete checkpoints (those under a final name), oldest first."""
        try:
            names = os.listdir(self.path("checkpoints"))
        except FileNotFoundError:
            return []
        return sorted(int(name[5:]) for name in names if name.startswith("step-") and name[5:].isdigit())

    def checkpoint(self, step):
        return self.path("checkpoints", f"step-{step:08d}")

    def last_checkpoint(self):
        """Returns {file name: bytes} of the newest checkpoint; "" maps to the checkpoint's own name."""
        folder = self.checkpoint(self.checkpoints()[-1])
        content = {"": os.path.basename(folder)}
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "rb") as file:
                content[name] = file.read()
        return content

    def metrics_line_count(self):
        """Returns the current number of lines in metrics.jsonl."""
        try:
            with open(self.path("metrics.jsonl"), "rb") as file:
                return file.read().count(b"\n")
        except FileNotFoundError:
            return 0

    def metrics(self):
        """Returns the records of metrics.jsonl without times and rates: what depends on config and data alone."""
        with open(self.path("metrics.jsonl"), encoding="utf-8") as file:
            records = [json.loads(line) for line in file]
        timed = ("clips_per_second", "step_seconds", "gflops", "time/", "straggler/")
        return [{key: value for key, value in record.items() if not key.startswith(timed)} for record in records]


def difference(left, right):
    """Lists the files that differ between two results of last_checkpoint(), as text; empty if none does."""
    names = sorted(set(left) | set(right))
    return ", ".join(f"{name or 'name'}" for name in names if left.get(name) != right.get(name))


def deviations(left, right):
    """Returns the largest relative deviations of losses and of gradient norms between two lists of metrics, and the
    step and loss with the largest one."""
    if [sorted(record) for record in left] != [sorted(record) for record in right]:
        return float("inf"), float("inf"), "steps or keys differ"
    loss, norm, where = 0.0, 0.0, "no difference"
    for one, other in zip(left, right):
        for key, value in one.items():
            deviation = abs(value - other[key]) / max(abs(value), 1e-30) if value != other[key] else 0.0
            if key.startswith("grad_norm/"):
                norm = max(norm, deviation)
            elif deviation > loss:
                loss, where = deviation, f"step {one['step']}, {key}: {value} and {other[key]}"
    return loss, norm, where


def check_same_losses(tap, left, right, name):
    loss, norm, where = deviations(left, right)
    print(f"# largest relative deviation of losses {loss:.2g}, of gradient norms {norm:.2g}")
    tap.check(loss <= 1e-5 and norm <= 1e-3, name, where)
