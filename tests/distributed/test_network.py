#!/usr/bin/python3
# tests/run: mostly waits
"""Two hosts in network namespaces, and a link between them that delays packets, loses packets or is cut. A slow link
must show in the metrics, a cut link must end the run with a diagnosis. The link is two TUN devices and a thread that
forwards their packets."""
import ctypes
import fcntl
import heapq
import json
import os
import random
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import runs  # noqa: E402
from runs import Run  # noqa: E402

SEED = int(os.environ.get("CELFORGE_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
DEVICE, ADDRESSES = "celforge0", ("10.231.7.1", "10.231.7.2")
DELAY, LOSS = 0.02, 0.01  # seconds one way; share of packets
TIMEOUT = 6
DEADLINE = TIMEOUT + 1 + 10  # comm/health/heartbeat.h: two heartbeats and about ten seconds after the timeout
# Open MPI's launcher notices an unreachable host by TCP timeouts: the settings below shorten them from a quarter of an
# hour to this.
LAUNCHER_SECONDS = 25
TCP_RETRIES = 5
KEEPALIVE = {"oob_tcp_keepalive_time": "8", "oob_tcp_keepalive_intvl": "2", "oob_tcp_keepalive_probes": "3"}
SLACK = 20  # additional seconds for a busy machine
STEPS = 24
SETTINGS = {"train.steps": STEPS, "train.threads": 1, "checkpoint.every": 6, "comm.reduce": "reproducible",
            "comm.heartbeat": 0.5, "comm.timeout": TIMEOUT, "comm.checkpoint_timeout": TIMEOUT,
            "comm.start_timeout": 60}


def network_of(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


class Host:
    """A network namespace with a host name, which ends with its process."""

    def __init__(self, number):
        self.name, self.address = f"host{number}", ADDRESSES[number]
        self.holder = subprocess.Popen(["unshare", "--net", "--uts", "sh", "-c",
                                        f"hostname {self.name} && echo && exec cat"], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.device = None

    def enter(self):
        return ["nsenter", f"--target={self.holder.pid}", "--net", "--uts"]

    def open_device(self):
        """Opens the TUN device; the calling thread stays in this host's network namespace."""
        if self.holder.stdout.readline() != b"\n":
            raise OSError(self.holder.stderr.read().decode().strip())
        with open(f"/proc/{self.holder.pid}/ns/net", "rb") as place:
            if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), 0) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        self.device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.device, 0x400454CA, struct.pack("16sH22x", DEVICE.encode(), 0x1001))  # TUNSETIFF, TUN, bare
        for what in (["link", "set", "lo", "up"], ["link", "set", DEVICE, "up"],
                     ["addr", "add", f"{self.address}/24", "dev", DEVICE]):
            subprocess.run(["ip", *what], check=True, capture_output=True)
        with open("/proc/sys/net/ipv4/tcp_retries2", "w", encoding="ascii") as file:
            file.write(str(TCP_RETRIES))

    def close(self):
        """Ends the namespace and all processes in it."""
        if self.device is not None:
            os.close(self.device)
        place = network_of(self.holder.pid)
        for name in os.listdir("/proc"):
            if place and name.isdigit() and network_of(name) == place:
                os.kill(int(name), signal.SIGKILL)
        self.holder.kill()
        self.holder.wait()


class Link(threading.Thread):
    """Forwards packets between two hosts."""

    def __init__(self, hosts):
        super().__init__(daemon=True)
        self.hosts, self.random = hosts, random.Random(SEED)
        self.delay = self.loss = 0.0
        self.forwarded = self.lost = 0
        self.ready, self.stopping, self.trouble = threading.Event(), False, None

    def run(self):
        try:
            for host in self.hosts:
                host.open_device()
        except (OSError, subprocess.CalledProcessError) as error:
            self.trouble = error
        self.ready.set()
        in_flight, number = [], 0
        while not self.stopping and not self.trouble:
            due = in_flight[0][0] - time.monotonic() if in_flight else 0.1
            readable, _, _ = select.select([host.device for host in self.hosts], [], [], min(max(due, 0), 0.1))
            for device in readable:
                packet, number = os.read(device, 65536), number + 1
                other = self.hosts[device == self.hosts[0].device].device
                if self.random.random() >= self.loss:
                    heapq.heappush(in_flight, (time.monotonic() + self.delay, number, other, packet))
                else:
                    self.lost += 1
            while in_flight and in_flight[0][0] <= time.monotonic():
                _, _, device, packet = heapq.heappop(in_flight)
                self.put(device, packet)

    def put(self, device, packet):
        try:
            os.write(device, packet)
            self.forwarded += 1
        except OSError:  # a full queue, a device that is down
            self.lost += 1


class TwoHosts:
    def __init__(self, folder):
        self.folder = folder
        self.hosts = [Host(number) for number in range(2)]
        self.link = Link(self.hosts)
        self.link.start()
        self.link.ready.wait()
        self.agent, self.list = os.path.join(folder, "agent"), os.path.join(folder, "hosts")
        with open(self.agent, "w", encoding="ascii") as file:  # instead of ssh
            cases = "".join(f"{host.address}) enter='{' '.join(host.enter())}' ;;\n" for host in self.hosts)
            file.write(f'#!/bin/sh\ncase $1 in\n{cases}esac\nshift\nexec $enter sh -c "$*"\n')
        os.chmod(self.agent, 0o755)
        with open(self.list, "w", encoding="ascii") as file:
            file.write("".join(f"{host.address} slots=1\n" for host in self.hosts))

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.link.stopping = True
        self.link.join()
        for host in self.hosts:
            host.close()

    def start(self, run):
        """Starts one rank on each host."""
        run.write_config()
        options = {"plm_rsh_agent": self.agent, "oob_tcp_if_include": DEVICE, "btl": "tcp,self",
                   "btl_tcp_if_include": DEVICE, "pml": "ob1", **KEEPALIVE}
        command = [*self.hosts[0].enter(), "mpirun", "--hostfile", self.list, "-np", "2", "--map-by", "node"]
        command += [word for name, value in options.items() for word in ("--mca", name, value)]
        command += [runs.CELFORGE, "train", run.config, "--resume", "auto"]
        with open(run.log, "wb") as log:
            run.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=runs.ENVIRONMENT)
        return run

    def must_train(self, run):
        code = self.start(run).wait()
        assert code == 0, f"exit code {code}\n{run.log_text()}"
        return run


def skip_reason():
    for program in ("mpirun", "ip", "unshare", "nsenter"):
        if not shutil.which(program):
            return f"no {program}"
    if os.geteuid() != 0:
        return "networks of its own need root"
    if not os.path.exists("/dev/net/tun"):
        return "no /dev/net/tun"
    return ""


def seconds_of(run):
    """Medians over the run: seconds per step, and seconds of exposed communication per step."""
    with open(run.path("metrics.jsonl"), encoding="utf-8") as file:
        records = [json.loads(line) for line in file][2:]
    def median(key):
        return sorted(record[key] for record in records)[len(records) // 2]
    return median("step_seconds"), median("time/comm_exposed") * median("step_seconds")


def test_network(tap, folder):
    """Two hosts and the link between them"""
    reason = skip_reason()
    if reason:
        tap.skip("two hosts and the link between them", reason)
        return
    data = runs.synth(os.path.join(folder, "data"))
    undisturbed = Run(os.path.join(folder, "one-rank"), data, SETTINGS).must_train()
    with TwoHosts(folder) as two:
        if two.link.trouble:
            tap.skip("two hosts and the link between them", f"no networks of their own: {two.link.trouble}")
            return
        check_slow(tap, folder, data, two, undisturbed)
        check_cut(tap, folder, data, two, undisturbed)


def check_slow(tap, folder, data, two, undisturbed):
    for number in range(3):  # retried: a machine busy only during the first run hides the difference
        fast = two.must_train(Run(os.path.join(folder, f"fast-{number}"), data, SETTINGS))
        forwarded = two.link.forwarded
        two.link.delay, two.link.loss = DELAY, LOSS
        slow = two.must_train(Run(os.path.join(folder, f"slow-{number}"), data, SETTINGS))
        two.link.delay = two.link.loss = 0.0
        (fast_step, fast_wait), (slow_step, slow_wait) = seconds_of(fast), seconds_of(slow)
        print(f"# step, of which exposed communication: {fast_step:.3f} s, {fast_wait:.3f} s; over a slow link "
              f"{slow_step:.3f} s, {slow_wait:.3f} s; {two.link.forwarded} packets forwarded, {two.link.lost} lost")
        is_visible = min(slow_step - fast_step, slow_wait - fast_wait) > 4 * DELAY
        if is_visible:
            break
    tap.check(forwarded > 100 and two.link.lost > 0, "the link forwards and loses packets")
    tap.check(is_visible, "a slow link shows as exposed communication in the metrics", slow.log_text())
    tap.check("error" not in slow.log_text() and "no progress" not in slow.log_text(), "a slow link causes no error",
              slow.log_text())
    for run, what in ((fast, "two hosts"), (slow, "two hosts over a slow link")):
        differs = runs.difference(run.last_checkpoint(), undisturbed.last_checkpoint())
        tap.check(not differs, f"{what} end with the bytes of one rank alone", differs)


def pids_of(run):
    found = []
    for rank in range(2):
        with open(run.path("ranks", f"{rank}.json"), encoding="utf-8") as file:
            found.append(json.load(file)["pid"])
    return found


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def check_cut(tap, folder, data, two, undisturbed):
    run = two.start(Run(os.path.join(folder, "cut"), data, SETTINGS))
    cut_step = 7 + two.link.random.randrange(STEPS // 2)
    run.wait_for(lambda: run.metrics_line_count() >= cut_step)
    pids = pids_of(run)
    two.link.loss = 1.0
    begin = time.monotonic()
    while any(is_alive(pid) for pid in pids) and time.monotonic() < begin + 2 * (DEADLINE + SLACK):
        time.sleep(0.02)
    ranks_took = time.monotonic() - begin
    code = run.process.wait(timeout=runs.LIMIT)
    took = time.monotonic() - begin
    print(f"# cut after step {cut_step}: the ranks have ended after {ranks_took:.1f} s, mpirun after {took:.1f} s, "
          f"with {code}")
    tap.check(ranks_took <= DEADLINE + SLACK,
              f"after the link is cut both ranks end within {DEADLINE} s (plus {SLACK} s)",
              f"{ranks_took:.1f} s\n{run.log_text()}")
    tap.check(code not in (0, 75) and took <= DEADLINE + LAUNCHER_SECONDS + SLACK, "the launcher exits with an error",
              f"{code} after {took:.1f} s")
    said = run.log_text() + diagnosis_of(run)
    tap.check(re.search(r"no progress: rank [01] of 2 has been in \w+ \(.*\) since [0-9:]+ \(\d+ s\), step \d+", said)
              and "the network" in said and "cut" in said, "the diagnosis reports the cut link", said)
    two.link.loss = 0.0
    steps = run.checkpoints()
    two.must_train(run)
    tap.check(f"at step {steps[-1]}" in run.log_text(), "with the link restored the run resumes from its last checkpoint",
              run.log_text())
    differs = runs.difference(run.last_checkpoint(), undisturbed.last_checkpoint())
    tap.check(not differs, "the resumed run leaves the bytes of an undisturbed one", differs)


def diagnosis_of(run):
    """The text of the diagnoses in the run folder."""
    names = [name for name in os.listdir(run.path("ranks")) if name.startswith("diagnosis-")]
    return "".join(open(run.path("ranks", name), encoding="utf-8").read() for name in names)


if __name__ == "__main__":
    print(f"# CELFORGE_TEST_SEED={SEED}", flush=True)
    runs.main([test_network])
