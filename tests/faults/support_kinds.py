"""The kinds of faults of the campaign: how each is injected at a random moment, and which messages must follow."""
import re
import signal
import time

from support_campaign import BEAT, REACH, START_TIMEOUT, STEPS, runs

# The deadline that comm/health/heartbeat.h promises, and the time a launcher may take to notice a dead rank.
HANG_DEADLINE, DEATH_DEADLINE = START_TIMEOUT + 2 * BEAT + 10, 10
STOPPED, INTERNAL, IO = 75, 70, 74
NAME = r"rank {rank} \(host [^)]+, pid {pid}\)"
SAID = r"(celforge|\[0\] info|\[0\] error): "  # one process, or rank 0 for all
PHASES = r"in (start|data|step|reduce|evaluation|checkpoint|end)\b.* since [0-9:]+ \(\d+ s\), step \d+"


class FaultKind:
    """sizes: the world sizes it applies to. check() returns what is wrong with the end of an attempt."""
    name, what, sizes, deadline = "", "", (1, 2, 4), DEATH_DEADLINE

    def environment(self, attempt, mark):
        return {}

    def inject(self, attempt):
        raise NotImplementedError

    def check(self, attempt):
        raise NotImplementedError


def expect(attempt, codes, *patterns):
    """Returns unexpected exit codes and missing messages."""
    wrong = [] if attempt.code in codes else [f"exit code {attempt.code}, not {' or '.join(map(str, codes))}"]
    return wrong + [f"missing message: {pattern}" for pattern in patterns if not re.search(pattern, attempt.run.log_text())]


def named(attempt):
    """The pattern for the name of the rank with the fault."""
    pid = attempt.pids[attempt.rank] if attempt.pids else r"\d+"
    return NAME.format(rank=attempt.rank, pid=pid)


def expect_death(attempt, rank):
    """Expects the end of a run with a killed rank."""
    if attempt.ranks == 1:
        return expect(attempt, (-signal.SIGKILL,))
    return expect(attempt, (128 + signal.SIGKILL,), rf"process rank {rank} with PID \d+ on node \S+ exited on signal 9")


class Kill(FaultKind):
    name, what = "kill", "`SIGKILL` to a rank"

    def inject(self, attempt):
        if attempt.wait_for_random_moment() and runs.send_signal(attempt.pids[attempt.rank], signal.SIGKILL):
            attempt.record_injection(f"SIGKILL to rank {attempt.rank}")

    def check(self, attempt):
        return expect_death(attempt, attempt.rank)


class Node(FaultKind):
    name, what = "node", "`SIGKILL` to the launcher and all ranks at once, at any time after the start"

    def inject(self, attempt):
        if attempt.moments.random() < 0.3:
            time.sleep(attempt.moments.random() * 0.8)
        elif not attempt.wait_for_random_moment():
            return
        pids = [attempt.run.process.pid, *attempt.run.ranks()]
        if attempt.run.running():
            attempt.record_injection(f"SIGKILL to {len(pids)} processes")
            for pid in pids:
                runs.send_signal(pid, signal.SIGKILL)

    def check(self, attempt):
        return expect(attempt, (-signal.SIGKILL,))


class Launcher(FaultKind):
    name, what, sizes = "launcher", "`SIGKILL` to `mpirun` alone", (2, 4)

    def inject(self, attempt):
        if attempt.wait_for_random_moment() and runs.send_signal(attempt.run.process.pid, signal.SIGKILL):
            attempt.record_injection("SIGKILL to mpirun")

    def check(self, attempt):
        return expect(attempt, (-signal.SIGKILL,))


class Stop(FaultKind):
    name, what, sizes, deadline = "stop", "`SIGSTOP` to a rank", (2, 4), HANG_DEADLINE

    def inject(self, attempt):
        if not attempt.wait_for_random_moment():
            return
        pid = attempt.pids[attempt.rank]
        runs.send_signal(pid, signal.SIGSTOP)
        runs.wait_until(lambda: runs.is_stopped(pid), "a rank that stands still")
        if runs.process_state(pid) == "T":
            attempt.record_injection(f"SIGSTOP to rank {attempt.rank}")
        if attempt.injected_step >= STEPS - 1:  # the run is about to end: no other rank would wait for it
            runs.send_signal(pid, signal.SIGCONT)
            attempt.injected_at = None

    def check(self, attempt):
        return expect(attempt, (INTERNAL,), rf"behind: {named(attempt)}: its process is stopped by a signal .*{PHASES}")


class LibraryFault(FaultKind):
    """A fault that inject.c injects at a random call within the next REACH steps."""
    rank = None  # the only rank it applies to
    more = 0     # further calls, outside of the steps

    def environment(self, attempt, mark):
        if self.rank is not None:
            attempt.rank = self.rank
        calls = attempt.world.calls[attempt.ranks][self.name] * min(REACH, STEPS - 2 - attempt.first) // STEPS
        at = 1 + attempt.moments.randrange(max(1, calls + self.more))
        return attempt.world.injection(attempt.run, self.name, attempt.rank, at, mark)

    def inject(self, attempt):
        pass


class Data(LibraryFault):
    name, what, deadline = "data", "a loader thread's read of a shard never returns", HANG_DEADLINE

    def check(self, attempt):
        who = SAID.replace("0", str(attempt.rank))
        read = rf"{who}step \d+, micro-batch \d+: not read within \S+ s: loader thread \d+ is at"
        return expect(attempt, (INTERNAL, IO), rf"behind: {named(attempt)} in (start|data) since|{read}")


class Collective(LibraryFault):
    name, what, sizes = "collective", "the communication thread hangs in an all-reduce", (2, 4)
    deadline = HANG_DEADLINE

    def check(self, attempt):
        return expect(attempt, (INTERNAL,), rf"behind: {named(attempt)} in reduce")


class Agreement(LibraryFault):
    name, what, sizes = "agreement", "the main thread hangs in an all-gather", (2, 4)
    deadline, more = HANG_DEADLINE, 30  # calls during the start

    def check(self, attempt):
        # Before heartbeats start, only the waiting ranks can report.
        early = rf"rank \d of {attempt.ranks} \(pid \d+ on \S+\) waited {START_TIMEOUT}\.\d s without progress"
        return expect(attempt, (INTERNAL,), rf"behind: {named(attempt)} {PHASES}|{early}")


class DiskFull(LibraryFault):
    name, what, rank = "disk-full", "all writes of rank 0 fail with `ENOSPC` from a random one on", 0

    def check(self, attempt):
        return expect(attempt, (IO,), rf"{SAID}.*(checkpoints|metrics|tensorboard|step-|ranks|config\.yaml).*No space left on device")


class DiskError(LibraryFault):
    name, what, rank = "disk-error", "one write, flush or rename of rank 0 fails with `EIO`", 0

    def check(self, attempt):
        return expect(attempt, (IO,), rf"{SAID}.*(checkpoint|metrics|tensorboard).*Input/output error")


class KillWrite(LibraryFault):
    name, what, rank = "kill-write", "rank 0 is killed during a write, flush or rename of a checkpoint", 0

    def check(self, attempt):
        return expect_death(attempt, 0)


class Flip(FaultKind):
    name, what, sizes = "flip", "one bit flips in the weights, EMA weights or moments of a rank", (2, 4)
    ARRAYS = {"master": 0, "ema": 1, "moment2": 4}  # in the order of allocation

    def environment(self, attempt, mark):
        attempt.array = attempt.moments.choice(sorted(self.ARRAYS))
        return {"LD_PRELOAD": attempt.world.flipper, "FLIP_RANK": str(attempt.rank),
                "FLIP_NUMBER": str(self.ARRAYS[attempt.array]), "FLIP_BYTES": str(attempt.world.flat_bytes)}

    def inject(self, attempt):
        if not attempt.wait_for_random_moment():
            return
        begin = time.monotonic()
        runs.send_signal(attempt.pids[attempt.rank], signal.SIGURG)
        if attempt.run.wait_for(lambda: "flipped" in attempt.run.log_text()) or "flipped" in attempt.run.log_text():
            attempt.record_injection(f"a bit of generator.{attempt.array} of rank {attempt.rank}")
            attempt.injected_at = begin

    def check(self, attempt):
        tensor = rf"generator\.{attempt.array}\.[a-z0-9.]+[^;]*"
        who = rf"{tensor}rank {attempt.rank}\b" if attempt.ranks > 2 else tensor
        return expect(attempt, (INTERNAL,), rf"{SAID}no checkpoint of step \d+: .*generator\.{attempt.array}\b",
                      rf"Tensor by tensor: .*{who}")


class Signal(FaultKind):
    name, what = "signal", "`TERM`, `INT`, `USR1` or `USR2` to all ranks, to one, or to `mpirun`"

    def environment(self, attempt, mark):
        attempt.target = attempt.moments.choice(("all", "one", "launcher"))
        attempt.number = attempt.moments.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2))
        # On these signals mpirun stops the ranks, discards their output, and exits with 1.
        attempt.output_is_lost = attempt.target == "launcher" and attempt.ranks > 1 and attempt.number in (signal.SIGTERM, signal.SIGINT)
        # It waits one second before SIGKILL, which is short on a busy disk.
        return {"OMPI_MCA_odls_base_sigkill_timeout": "4"} if attempt.output_is_lost else {}

    def inject(self, attempt):
        if not attempt.wait_for_random_moment():
            return
        pids = {"all": attempt.pids, "one": [attempt.pids[attempt.rank]], "launcher": [attempt.run.process.pid]}[attempt.target]
        if any([runs.send_signal(pid, attempt.number) for pid in pids]):
            attempt.record_injection(f"{attempt.number.name} to {attempt.target}")

    def check(self, attempt):
        if attempt.output_is_lost:
            return expect(attempt, (1,)) + ([] if attempt.run.checkpoints()[-1:] == [attempt.done] else ["no checkpoint was saved"])
        return expect(attempt, (STOPPED,), rf"{SAID}stopped by a signal after step \d+")


class Twice(FaultKind):
    name, what = "twice", "a signal to all ranks, and another one before they have exited"

    def inject(self, attempt):
        pause = attempt.moments.random() * 0.01
        if not attempt.wait_for_random_moment():
            return
        first = any([runs.send_signal(pid, signal.SIGUSR1) for pid in attempt.pids])
        begin = time.monotonic()
        time.sleep(pause)
        for pid in attempt.pids:
            runs.send_signal(pid, signal.SIGTERM)
        if first:
            attempt.record_injection(f"SIGUSR1, and SIGTERM after {pause * 1000:.1f} ms")
            attempt.injected_at = begin

    def check(self, attempt):
        # It depends on milliseconds which signal arrives first.
        if attempt.code == STOPPED:
            return expect(attempt, (STOPPED,), rf"{SAID}stopped by a signal after step \d+")
        return expect(attempt, (128 + signal.SIGTERM, 128 + signal.SIGUSR1))


class SignalKill(FaultKind):
    name, what = "signal-kill", "a signal to all ranks, and `SIGKILL` to one before they have exited"

    def inject(self, attempt):
        pause = attempt.moments.random() * 0.02
        if not attempt.wait_for_random_moment():
            return
        first = any([runs.send_signal(pid, signal.SIGUSR1) for pid in attempt.pids])
        time.sleep(pause)
        runs.send_signal(attempt.pids[attempt.rank], signal.SIGKILL)
        if first:
            attempt.record_injection(f"SIGUSR1, and SIGKILL to rank {attempt.rank} after {pause * 1000:.1f} ms")

    def check(self, attempt):
        # It depends on milliseconds whether the kill arrives in time.
        if attempt.code == STOPPED:
            return expect(attempt, (STOPPED,), rf"{SAID}stopped by a signal after step \d+")
        return expect_death(attempt, attempt.rank)


KINDS = {kind.name: kind() for kind in (Kill, Node, Launcher, Stop, Data, Collective, Agreement, DiskFull, DiskError,
                                        KillWrite, Flip, Signal, Twice, SignalKill)}
