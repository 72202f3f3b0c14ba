#!/usr/bin/python3
# tests/run: mostly waits
"""Training under Slurm, on a cluster of two nodes that is started here: jobs that are preempted, run into their
time limit, are cancelled or lose a node end with the bytes of a run left alone; arrays; a wrong launch. Arguments:
only tests whose function's name holds one of them."""
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "..", ".."))
sys.path[:0] = [os.path.join(HERE, ".."), HERE]
sys.dont_write_bytecode = True
import cluster as slurm  # noqa: E402
import runs  # noqa: E402

STEPS = 300
LIMIT = 240  # seconds for what Slurm or a run does; the machine may be busy
TRAIN = os.path.join(ROOT, "slurm", "train.sbatch")
EVERY, KEEP = 20, 3
SETTINGS = {"train.steps": STEPS, "comm.reduce": "reproducible", "checkpoint.every": EVERY, "checkpoint.keep": KEEP,
            "metrics.every": 10}


class Job:
    """A run's folder, and the job that works in it."""

    def __init__(self, cluster, folder, data, name):
        self.cluster = cluster
        self.run = runs.Run(os.path.join(folder, name), data, SETTINGS)
        self.number = self.log = None

    def submit(self, *options, script=TRAIN, **environment):
        self.run.write_config()
        self.log = f"{self.run.folder}.log"
        self.number = self.cluster.submit("--nodes=2", "--ntasks-per-node=1", f"--output={self.log}", *options, script,
                                          self.run.config, **{"CELFORGE": runs.CELFORGE, **environment})
        return self

    def said(self):
        return self.run.said() if os.path.exists(self.log) else ""

    def fields(self):
        return self.cluster.job(self.number)

    def wait_for(self, condition, what):
        try:
            self.cluster.wait_for(condition, LIMIT, f"job {self.number}: {what}", self.number)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None

    def wait_completed(self):
        self.wait_for(lambda: self.fields()["JobState"] in ("COMPLETED", "FAILED"), "COMPLETED")
        state = self.fields()["JobState"]
        assert state == "COMPLETED", f"job {self.number} {state}\n{self.said()}\n{self.cluster.report(self.number)}"

    def hold(self):
        """Stops the ranks in the middle of the run, where no checkpoint is being written, so that no clock of Slurm's
        or the machine's decides what is done by then. They learn of signals when they go on. False where they were
        done before."""
        self.wait_for(lambda: self.run.lines() >= 4, "four lines of metrics")
        while len(ranks := self.ranks()) == 2:
            slurm.send(signal.SIGSTOP, ranks)
            runs.wait_until(lambda: all(map(runs.stands_still, ranks)), "ranks that stand still")
            if self.is_between_checkpoints():
                return True
            self.go_on()
            time.sleep(0.02)
        return False

    def is_between_checkpoints(self):
        step, steps = self.run.lines() * 10, self.run.checkpoints()
        is_writing = any(name.endswith(".tmp") for name in os.listdir(self.run.path("checkpoints")))
        return step < STEPS - 10 and steps[-1:] == [step // EVERY * EVERY] and len(steps) <= KEEP and not is_writing

    def ranks(self):
        return self.cluster.ranks(self.number, runs.CELFORGE)

    def go_on(self):
        slurm.send(signal.SIGCONT, self.ranks())

    def wait_gone(self):
        self.wait_for(lambda: self.fields()["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), "gone")

    def wait_requeued(self):
        def is_back():
            fields = self.fields()
            return (fields["JobState"], fields["Restarts"]) == ("PENDING", "1")

        self.wait_for(is_back, "back in the queue")

    def start_again(self):
        """Slurm keeps a job that came back waiting for two minutes. In the second of its end it could not start: a
        node takes its credential for that of the start before."""
        self.cluster.call("scontrol", "update", f"JobId={self.number}", "StartTime=now+3")
        self.wait_completed()


def held_job(cluster, folder, data, name, *options, **more):
    """A job that is held in the middle of its first life; another one where that was over before it could be."""
    for number in range(4):
        job = Job(cluster, folder, data, f"{name}-{number}").submit(*options, **more)
        if job.hold() and job.fields()["Restarts"] == "0":
            return job
        cluster.call("scancel", job.number, check=False)
        job.go_on()
        job.wait_gone()
    raise AssertionError(f"{name}: done before it was held, each time\n{job.said()}")


def check_resumed(tap, job, undisturbed, what):
    """What every case ends with: as if nothing had happened."""
    said = job.said()
    tap.check("resuming from" in said and "start 2, 2 ranks on n[1-2]" in said, f"{what} resumes on both nodes", said)
    check_end(tap, job, undisturbed, what)


def check_end(tap, job, undisturbed, what):
    differs = runs.difference(job.run.last_checkpoint(), undisturbed.last_checkpoint())
    tap.check(not differs, f"{what} ends with the bytes of a run left alone", f"different: {differs}\n{job.said()}")
    tap.check(job.run.metrics() == undisturbed.metrics(), f"{what} has its metrics, each step once")


def check_stopped(tap, job, what):
    """Between two lives: the checkpoint of the signal, and only that signal."""
    steps = job.run.checkpoints()
    tap.check(steps and 40 <= steps[-1] < STEPS and f"stopped by a signal after step {steps[-1]} " in job.said(),
              f"{what} leaves a checkpoint of the step it stopped at", f"checkpoints {steps}\n{job.said()}")


def celforge(*arguments):
    return subprocess.run([runs.CELFORGE, *arguments], capture_output=True, text=True, timeout=LIMIT, check=False)


def check_usable(tap, job, what):
    told = celforge("info", job.run.folder)
    tap.check(told.returncode == 0 and f"step {job.run.checkpoints()[-1]}" in told.stdout,
              f"{what} leaves a checkpoint that can be read", told.stdout + told.stderr)


def preempt(tap, job, told, what):
    cluster = job.cluster
    other = cluster.submit("--partition=high", "--nodes=2", "--exclusive", f"--output={job.log}-high", "--wrap=true")
    told(job, other)
    job.wait_for(lambda: cluster.job(other)["JobState"] == "COMPLETED", "making way")
    job.wait_requeued()
    check_stopped(tap, job, what)


def test_preemption(tap, cluster, folder, data, undisturbed):
    """Preempted by a job of higher priority"""
    def by_script(job, other):
        job.wait_for(lambda: "the ranks save a checkpoint" in job.said(), "told to stop")
        tap.check(cluster.job(other)["JobState"] == "PENDING", "the other job waits for the grace time to be used")
        job.go_on()

    job = held_job(cluster, folder, data, "preempted", "--partition=low")
    preempt(tap, job, by_script, "a preempted job")
    job.start_again()
    check_resumed(tap, job, undisturbed, "a preempted job")


def test_preemption_by_term(tap, cluster, folder, data, undisturbed):
    """Preempted where no signal was asked for"""
    def by_slurm(job, _):
        """Slurm lets stopped processes go on itself before it sends TERM."""
        job.wait_for(lambda: "requeueing the job" in job.said(), "stopped")
        tap.check("asks the ranks" not in job.said(), "Slurm itself tells the ranks", job.said())

    with open(TRAIN, encoding="utf-8") as file:
        lines = [line for line in file if not line.startswith("#SBATCH --signal")]
    script = os.path.join(folder, "train-without-signal.sbatch")
    with open(script, "w", encoding="utf-8") as file:
        file.writelines(lines)
    job = held_job(cluster, folder, data, "terminated", "--partition=low", script=script)
    preempt(tap, job, by_slurm, "a job preempted by TERM")
    job.start_again()
    check_resumed(tap, job, undisturbed, "a job preempted by TERM")


FAKE_APPTAINER = """\
#!/bin/bash
echo "$*" >>{folder}/apptainer.log
shift 4
"$@" &
trap 'kill -USR2 $!; echo passed on >>{folder}/passed-on' USR2
while kill -0 $! 2>/dev/null; do wait $!; done
wait $!
"""


def fake_apptainer(folder):
    """In place of a container: says how it was called, and runs the program here. As the real one it stays beside
    the program and hands on signals, which the program gets from Slurm as well."""
    path = os.path.join(folder, "bin", "apptainer")
    os.makedirs(os.path.dirname(path))
    with open(path, "w", encoding="utf-8") as file:
        file.write(FAKE_APPTAINER.format(folder=folder))
    os.chmod(path, stat.S_IRWXU)
    return os.path.dirname(path)


def lines_of(path):
    if not os.path.exists(path):
        return 0
    with open(path, encoding="utf-8") as file:
        return len(file.readlines())


def test_time_limit(tap, cluster, folder, data, undisturbed):
    """At its time limit, in a container"""
    path = fake_apptainer(folder) + ":" + cluster.environment["PATH"]
    job = held_job(cluster, folder, data, "limited", "--time=2", "--signal=B:USR1@75", PATH=path,
                   CONTAINER="celforge.sif")
    job.wait_for(lambda: "the ranks save a checkpoint" in job.said(), "told to stop")
    # A rank that has got the signal both ways before it goes on sees one; the same a while later would be a second.
    job.wait_for(lambda: lines_of(os.path.join(folder, "passed-on")) == 2, "told to stop by the container, too")
    job.go_on()
    job.wait_requeued()
    check_stopped(tap, job, "a job at its time limit")
    job.start_again()
    check_resumed(tap, job, undisturbed, "a job at its time limit")
    with open(os.path.join(folder, "apptainer.log"), encoding="utf-8") as file:
        calls = [line for line in file.read().splitlines() if job.run.config in line]
    wanted = f"exec --bind {ROOT} celforge.sif {runs.CELFORGE} train {job.run.config} --resume auto"
    tap.check(calls == [wanted] * 4, "CONTAINER: both ranks of both starts ran in it", "\n".join(calls))


def test_cancelled(tap, cluster, folder, data, undisturbed):
    """Cancelled"""
    job = held_job(cluster, folder, data, "cancelled")
    cluster.call("scancel", job.number)
    job.wait_gone()
    fields = job.fields()
    tap.check((fields["JobState"], fields["Restarts"]) == ("CANCELLED", "0"), "a cancelled job stays away", fields)
    check_stopped(tap, job, "a cancelled job")
    check_usable(tap, job, "a cancelled job")
    job.submit().wait_completed()
    check_end(tap, job, undisturbed, "a cancelled job, submitted again,")


def test_node_failure(tap, cluster, folder, data, undisturbed):
    """A node is gone"""
    job = held_job(cluster, folder, data, "failed")
    steps = job.run.checkpoints()
    cluster.be_patient(5)
    cluster.fail_node("n2")
    job.wait_requeued()
    job.wait_for(lambda: cluster.states().get("n2", "").startswith("DOWN"), "a node that is down")
    tap.check("NODE FAILURE" in job.said(), "the node is known to be down", job.said())
    cluster.set_timeout(slurm.TIMEOUT)
    tap.check(job.run.checkpoints() == steps, "the checkpoints are those from before", job.run.checkpoints())
    check_usable(tap, job, "a job that lost a node")
    cluster.start_node("n2")
    job.start_again()
    check_resumed(tap, job, undisturbed, "a job that lost a node")


CRASHING = """\
#!/bin/bash
for start in $(seq {crashes}); do
  if mkdir {folder}/rank-$SLURM_PROCID-start-$start 2>/dev/null; then kill -SEGV $$; fi
done
exec {celforge} "$@"
"""


def crashing(folder, crashes):
    """In place of celforge: each rank crashes in its first starts, so many times."""
    os.makedirs(folder)
    path = os.path.join(folder, "celforge")
    with open(path, "w", encoding="utf-8") as file:
        file.write(CRASHING.format(folder=folder, crashes=crashes, celforge=runs.CELFORGE))
    os.chmod(path, stat.S_IRWXU)
    return path


def test_crash(tap, cluster, folder, data, undisturbed):
    """Ranks that crash"""
    job = Job(cluster, folder, data, "crashed").submit(CELFORGE=crashing(os.path.join(folder, "crash-once"), 1))
    job.wait_completed()
    said = job.said()
    tap.check("a rank crashed (exit code 139): restarting all ranks, 1 of 2 restarts" in said and "2 of 2" not in said,
              "a step whose ranks crash is started again on the same nodes", said)
    check_end(tap, job, undisturbed, "a run whose ranks crashed")
    job = Job(cluster, folder, data, "crashing").submit(CELFORGE=crashing(os.path.join(folder, "crash-on"), 9))
    job.wait_for(lambda: job.fields()["JobState"] in ("COMPLETED", "FAILED"), "FAILED")
    fields, said = job.fields(), job.said()
    tap.check(fields["JobState"] == "FAILED" and fields["ExitCode"] in ("139:0", "0:11") and "restarting all ranks, 2 of 2 restarts" in said,
              "after two times the job fails", f"{fields}\n{said}")


def test_sweep(tap, cluster, folder, data, undisturbed):
    """A sweep"""
    job = Job(cluster, folder, data, "sweep")
    job.run.write_config()
    lines = os.path.join(folder, "lines.txt")
    with open(lines, "w", encoding="utf-8") as file:
        file.write(f"run.dir={folder}/sweep-1 optim.clip=5\nrun.dir='{folder}/sweep 2' optim.clip=4")
    script = os.path.join(ROOT, "slurm", "sweep.sbatch")
    number = cluster.submit("--array=1-2", "--nodes=1", "--ntasks=2", f"--output={folder}/sweep-%a.log", script,
                            job.run.config, lines, "--set", "samples.clips=2", CELFORGE=runs.CELFORGE)
    logs = [f"{folder}/sweep-{index}.log" for index in (1, 2)]
    for index in (1, 2):
        job.number, job.log = f"{number}_{index}", logs[index - 1]
        job.wait_completed()
    one, two = (runs.Run(f"{folder}/{name}", data, SETTINGS) for name in ("sweep-1", "sweep 2"))
    differs = runs.difference(one.last_checkpoint(), undisturbed.last_checkpoint())
    # Of the state, that is: the manifest holds the config, here with another samples.clips.
    tap.check(differs in ("", "manifest.json"), "line 1 of a sweep is the run it says", f"different: {differs}")
    with open(two.path("config.yaml"), encoding="utf-8") as file:
        config = file.read()
    tap.check("  clip: 4\n" in config and "  clips: 2\n" in config and two.checkpoints()[-1] == STEPS,
              "line 2, with a space in a value, another; what is said for all holds", config)


def test_pack(tap, cluster, folder):
    """An array over videos, then one dataset"""
    videos = [os.path.join(folder, name) for name in ("a video.mp4", "another.mp4")]
    for seed, video in enumerate(videos, 1):
        made = celforge("synth", video, "--frames", str(8 * seed), "--size", "64x64", "--seed", str(seed))
        if made.returncode != 0 and "FFmpeg" in made.stderr:
            tap.skip("an array over videos", "no FFmpeg in this build")
            return
    lines, dataset = os.path.join(folder, "videos.txt"), os.path.join(folder, "video")
    with open(lines, "w", encoding="utf-8") as file:
        file.write("".join(f'--source "{video}"\n' for video in videos))
    script = os.path.join(ROOT, "slurm", "pack.sbatch")
    common = [f"--output={folder}/pack-%A_%a.log", script, lines, dataset]
    options = ("--frames", "4", "--target-filter", "negate")
    array = cluster.submit("--array=1-2", *common, *options, CELFORGE=runs.CELFORGE)
    join = cluster.submit(f"--dependency=afterok:{array}", *common, CELFORGE=runs.CELFORGE)
    cluster.wait_for(lambda: cluster.job(join).get("JobState") == "COMPLETED", LIMIT, "the joined dataset", join)
    told, verified = celforge("info", dataset), celforge("verify", dataset)
    tap.check(verified.returncode == 0 and "clips        6 in 2 shards" in told.stdout,
              "8 and 16 frames in clips of 4 make one dataset of 6", told.stdout + told.stderr + verified.stderr)
    parts = sorted(os.listdir(f"{dataset}.parts"))
    tap.check(parts == ["000001", "000002"], "of two parts", parts)
    again = cluster.submit("--array=2", *common, *options, CELFORGE=runs.CELFORGE)
    cluster.wait_for(lambda: cluster.job(again).get("JobState") == "COMPLETED", LIMIT, "the second time", again)
    with open(f"{folder}/pack-{again}_2.log", encoding="utf-8") as file:
        tap.check("000002 is complete already" in file.read(), "a part that is whole is not made again")


def test_wrong_launch(tap, cluster, folder, data):
    """Launched as singletons"""
    run = runs.Run(os.path.join(folder, "alone"), data, SETTINGS)
    run.write_config()
    done = subprocess.run(["srun", "--mpi=none", "--nodes=2", "--ntasks=2", runs.CELFORGE, "train", run.config],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=False,
                          env=cluster.environment)
    named = all(f"MPI connects 1: task {task} on node n{task + 1} would train alone; use srun --mpi=pmix" in done.stderr
                for task in (0, 1))
    tap.check(done.returncode == 64 and named, "srun --mpi=none: each task refuses to train alone, and says what to do",
              f"exit code {done.returncode}\n{done.stderr}")
    tap.check(not os.path.exists(run.folder), "and nothing is written")


def test_mpirun(tap, cluster, folder, data, undisturbed):
    """mpirun in a job"""
    job = Job(cluster, folder, data, "mpirun")
    job.run.write_config()
    job.log = f"{job.run.folder}.log"
    job.number = cluster.submit("--nodes=2", "--ntasks-per-node=1", f"--output={job.log}",
                                f"--wrap=mpirun -np 2 {runs.CELFORGE} train {job.run.config}")
    job.wait_completed()
    check_end(tap, job, undisturbed, "mpirun in a job of two nodes")


def run_tests(tap, cluster, folder):
    data = runs.synth(os.path.join(folder, "data"))
    undisturbed = runs.Run(os.path.join(folder, "undisturbed"), data, SETTINGS).must_train(2)
    disturbed = [test_preemption, test_preemption_by_term, test_time_limit, test_cancelled, test_crash, test_sweep, test_mpirun,
                 test_node_failure]
    for test, arguments in [(test_wrong_launch, (data,)), (test_pack, ()),
                            *((test, (data, undisturbed)) for test in disturbed)]:
        if sys.argv[1:] and not any(word in test.__name__ for word in sys.argv[1:]):
            continue
        begin = time.monotonic()
        try:
            test(tap, cluster, folder, *arguments)
        except (OSError, ValueError, KeyError, AssertionError, subprocess.SubprocessError) as error:
            tap.check(False, test.__doc__, f"{type(error).__name__}: {error}")
        print(f"# {test.__doc__}: {time.monotonic() - begin:.0f} s", flush=True)


def main():
    tap = runs.Tap()
    if absent := slurm.missing():
        tap.skip("training under Slurm", absent)
        tap.end()
    if not os.access(runs.CELFORGE, os.X_OK):
        tap.check(False, f"{runs.CELFORGE} is not built")
        tap.end()
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of all that cleans up
    folder = tempfile.mkdtemp(prefix="celforge-slurm-")
    try:
        os.makedirs(os.path.join(folder, "cluster"))
        with slurm.Cluster(os.path.join(folder, "cluster")) as cluster:
            run_tests(tap, cluster, folder)
        left = cluster.processes()
        tap.check(not left, "nothing runs on when the cluster is stopped", left)
    except (OSError, AssertionError, subprocess.SubprocessError) as error:
        tap.check(False, "a cluster of two nodes", f"{type(error).__name__}: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tap.end()


if __name__ == "__main__":
    main()
