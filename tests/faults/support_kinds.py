"""The kinds of harm of the fault campaign: how each is done at a random moment, and what has to be said of it."""
import re
import signal
import time

from support_campaign import BEAT, REACH, START_TIMEOUT, STEPS, runs

# What comm/health/heartbeat.h promises, and how long a launcher may take to notice a dead rank.
HANG_DEADLINE, DEATH_DEADLINE = START_TIMEOUT + 2 * BEAT + 10, 10
STOPPED, INTERNAL, IO = 75, 70, 74
NAME = r"rank {rank} \(host [^)]+, pid {pid}\)"
SAID = r"(celforge|\[0\] info|\[0\] error): "  # a process by itself, or rank 0 for all
PHASES = r"in (start|data|step|reduce|evaluation|checkpoint|end)\b.* since [0-9:]+ \(\d+ s\), step \d+"


class Kind:
    """sizes: world sizes it makes sense for. check() says what is wrong with how a life ended."""
    name, what, sizes, deadline = "", "", (1, 2, 4), DEATH_DEADLINE

    def environment(self, life, mark):
        return {}

    def harm(self, life):
        raise NotImplementedError

    def check(self, life):
        raise NotImplementedError


def expect(life, codes, *patterns):
    """What is missing."""
    wrong = [] if life.code in codes else [f"exit code {life.code}, not {' or '.join(map(str, codes))}"]
    return wrong + [f"not said: {pattern}" for pattern in patterns if not re.search(pattern, life.run.log_text())]


def named(life):
    """The pattern of the harmed rank's name."""
    pid = life.pids[life.rank] if life.pids else r"\d+"
    return NAME.format(rank=life.rank, pid=pid)


def expect_death(life, rank):
    """Of a rank that was killed."""
    if life.ranks == 1:
        return expect(life, (-signal.SIGKILL,))
    return expect(life, (128 + signal.SIGKILL,), rf"process rank {rank} with PID \d+ on node \S+ exited on signal 9")


class Kill(Kind):
    name, what = "kill", "`SIGKILL` to a rank"

    def harm(self, life):
        if life.reach() and runs.send_signal(life.pids[life.rank], signal.SIGKILL):
            life.hit(f"SIGKILL to rank {life.rank}")

    def check(self, life):
        return expect_death(life, life.rank)


class Node(Kind):
    name, what = "node", "`SIGKILL` to the launcher and all ranks at once, at any time from the start on"

    def harm(self, life):
        if life.moments.random() < 0.3:
            time.sleep(life.moments.random() * 0.8)
        elif not life.reach():
            return
        pids = [life.run.process.pid, *life.run.ranks()]
        if life.run.running():
            life.hit(f"SIGKILL to {len(pids)} processes")
            for pid in pids:
                runs.send_signal(pid, signal.SIGKILL)

    def check(self, life):
        return expect(life, (-signal.SIGKILL,))


class Launcher(Kind):
    name, what, sizes = "launcher", "`SIGKILL` to `mpirun` alone", (2, 4)

    def harm(self, life):
        if life.reach() and runs.send_signal(life.run.process.pid, signal.SIGKILL):
            life.hit("SIGKILL to mpirun")

    def check(self, life):
        return expect(life, (-signal.SIGKILL,))


class Stop(Kind):
    name, what, sizes, deadline = "stop", "`SIGSTOP` to a rank", (2, 4), HANG_DEADLINE

    def harm(self, life):
        if not life.reach():
            return
        pid = life.pids[life.rank]
        runs.send_signal(pid, signal.SIGSTOP)
        runs.wait_until(lambda: runs.is_stopped(pid), "a rank that stands still")
        if runs.process_state(pid) == "T":
            life.hit(f"SIGSTOP to rank {life.rank}")
        if life.hit_step >= STEPS - 1:  # nobody may be left who waits for it
            runs.send_signal(pid, signal.SIGCONT)
            life.hit_at = None

    def check(self, life):
        return expect(life, (INTERNAL,), rf"behind: {named(life)}: its process is stopped by a signal .*{PHASES}")


class Inside(Kind):
    """Harm that inject.c does: at a random one of the calls that the next REACH steps make."""
    rank = None  # that alone
    more = 0     # calls

    def environment(self, life, mark):
        if self.rank is not None:
            life.rank = self.rank
        calls = life.world.calls[life.ranks][self.name] * min(REACH, STEPS - 2 - life.first) // STEPS
        at = 1 + life.moments.randrange(max(1, calls + self.more))
        return life.world.injection(life.run, self.name, life.rank, at, mark)

    def harm(self, life):
        pass


class Data(Inside):
    name, what, deadline = "data", "a loader thread's read of a shard never returns", HANG_DEADLINE

    def check(self, life):
        who = SAID.replace("0", str(life.rank))
        read = rf"{who}step \d+, micro-batch \d+: not read within \S+ s: loader thread \d+ is at"
        return expect(life, (INTERNAL, IO), rf"behind: {named(life)} in (start|data) since|{read}")


class Collective(Inside):
    name, what, sizes = "collective", "the communication thread hangs in an all-reduce", (2, 4)
    deadline = HANG_DEADLINE

    def check(self, life):
        return expect(life, (INTERNAL,), rf"behind: {named(life)} in reduce")


class Agreement(Inside):
    name, what, sizes = "agreement", "the main thread hangs in an all-gather", (2, 4)
    deadline, more = HANG_DEADLINE, 30  # calls of the start

    def check(self, life):
        # Before there are heartbeats only those who wait can speak.
        early = rf"rank \d of {life.ranks} \(pid \d+ on \S+\) waited {START_TIMEOUT}\.\d s without progress"
        return expect(life, (INTERNAL,), rf"behind: {named(life)} {PHASES}|{early}")


class DiskFull(Inside):
    name, what, rank = "disk-full", "rank 0's writes fail with `ENOSPC` from one on", 0

    def check(self, life):
        return expect(life, (IO,), rf"{SAID}.*(checkpoints|metrics|tensorboard|step-|ranks|config\.yaml).*No space left on device")


class DiskError(Inside):
    name, what, rank = "disk-error", "one write, flush or rename of rank 0 fails with `EIO`", 0

    def check(self, life):
        return expect(life, (IO,), rf"{SAID}.*(checkpoint|metrics|tensorboard).*Input/output error")


class KillWrite(Inside):
    name, what, rank = "kill-write", "rank 0 dies half-way in a write, flush or rename of a checkpoint", 0

    def check(self, life):
        return expect_death(life, 0)


class Flip(Kind):
    name, what, sizes = "flip", "one bit of a rank's weights, averages or moments flips", (2, 4)
    ARRAYS = {"master": 0, "ema": 1, "moment2": 4}  # by their order of allocation

    def environment(self, life, mark):
        life.array = life.moments.choice(sorted(self.ARRAYS))
        return {"LD_PRELOAD": life.world.flipper, "FLIP_RANK": str(life.rank),
                "FLIP_NUMBER": str(self.ARRAYS[life.array]), "FLIP_BYTES": str(life.world.flat_bytes)}

    def harm(self, life):
        if not life.reach():
            return
        begin = time.monotonic()
        runs.send_signal(life.pids[life.rank], signal.SIGURG)
        if life.run.wait_for(lambda: "flipped" in life.run.log_text()) or "flipped" in life.run.log_text():
            life.hit(f"a bit of generator.{life.array} of rank {life.rank}")
            life.hit_at = begin

    def check(self, life):
        tensor = rf"generator\.{life.array}\.[a-z0-9.]+[^;]*"
        who = rf"{tensor}rank {life.rank}\b" if life.ranks > 2 else tensor
        return expect(life, (INTERNAL,), rf"{SAID}no checkpoint of step \d+: .*generator\.{life.array}\b",
                      rf"Tensor by tensor: .*{who}")


class Signal(Kind):
    name, what = "signal", "`TERM`, `INT`, `USR1` or `USR2` to all ranks, to one, or to `mpirun`"

    def environment(self, life, mark):
        life.target = life.moments.choice(("all", "one", "launcher"))
        life.number = life.moments.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2))
        # Asked to end, mpirun asks the ranks, passes nothing on any more that they say, and ends with 1.
        life.unheard = life.target == "launcher" and life.ranks > 1 and life.number in (signal.SIGTERM, signal.SIGINT)
        # It gives them a second, which is little on a busy disk.
        return {"OMPI_MCA_odls_base_sigkill_timeout": "4"} if life.unheard else {}

    def harm(self, life):
        if not life.reach():
            return
        pids = {"all": life.pids, "one": [life.pids[life.rank]], "launcher": [life.run.process.pid]}[life.target]
        if any([runs.send_signal(pid, life.number) for pid in pids]):
            life.hit(f"{life.number.name} to {life.target}")

    def check(self, life):
        if life.unheard:
            return expect(life, (1,)) + ([] if life.run.checkpoints()[-1:] == [life.done] else ["nothing was saved"])
        return expect(life, (STOPPED,), rf"{SAID}stopped by a signal after step \d+")


class Twice(Kind):
    name, what = "twice", "a signal to all ranks, and another one before they have ended"

    def harm(self, life):
        pause = life.moments.random() * 0.01
        if not life.reach():
            return
        first = any([runs.send_signal(pid, signal.SIGUSR1) for pid in life.pids])
        begin = time.monotonic()
        time.sleep(pause)
        for pid in life.pids:
            runs.send_signal(pid, signal.SIGTERM)
        if first:
            life.hit(f"SIGUSR1, and SIGTERM after {pause * 1000:.1f} ms")
            life.hit_at = begin

    def check(self, life):
        # Which of the two comes in time is a matter of milliseconds.
        if life.code == STOPPED:
            return expect(life, (STOPPED,), rf"{SAID}stopped by a signal after step \d+")
        return expect(life, (128 + signal.SIGTERM, 128 + signal.SIGUSR1))


class SignalKill(Kind):
    name, what = "signal-kill", "a signal to all ranks, and `SIGKILL` to one before they have ended"

    def harm(self, life):
        pause = life.moments.random() * 0.02
        if not life.reach():
            return
        first = any([runs.send_signal(pid, signal.SIGUSR1) for pid in life.pids])
        time.sleep(pause)
        runs.send_signal(life.pids[life.rank], signal.SIGKILL)
        if first:
            life.hit(f"SIGUSR1, and SIGKILL to rank {life.rank} after {pause * 1000:.1f} ms")

    def check(self, life):
        # As above.
        if life.code == STOPPED:
            return expect(life, (STOPPED,), rf"{SAID}stopped by a signal after step \d+")
        return expect_death(life, life.rank)


KINDS = {kind.name: kind() for kind in (Kill, Node, Launcher, Stop, Data, Collective, Agreement, DiskFull, DiskError,
                                        KillWrite, Flip, Signal, Twice, SignalKill)}
