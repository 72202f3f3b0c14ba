#!/usr/bin/python3
# tests/run: mostly waits
"""Tests slurm/*.sbatch on a Slurm cluster of two virtual nodes: jobs that are preempted, reach their time limit, are
cancelled, crash or lose a node finish with the same bytes as an uninterrupted run; job arrays; a launch without MPI.

    tests/slurm/test_cluster.py [WORD ...]     run only tests whose function name contains a word
"""
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
LIMIT = 240  # seconds to wait for Slurm or for a run; the machine may be busy
TRAIN = os.path.join(ROOT, "slurm", "train.sbatch")
EVERY, KEEP = 20, 3
SETTINGS = {"train.steps": STEPS, "comm.reduce": "reproducible", "checkpoint.every": EVERY, "checkpoint.keep": KEEP,
            "metrics.every": 10}


class Job:
    """A run folder and the job that trains in it."""

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

    def log_text(self):
        return self.run.log_text() if os.path.exists(self.log) else ""

    def fields(self):
        return self.cluster.job(self.number)

    def wait_for(self, condition, what):
        try:
            self.cluster.wait_for(condition, LIMIT, f"job {self.number}: {what}", self.number)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_text()}") from None

    def wait_completed(self):
        self.wait_for(lambda: self.fields()["JobState"] in ("COMPLETED", "FAILED"), "COMPLETED")
        state = self.fields()["JobState"]
        assert state == "COMPLETED", f"job {self.number} {state}\n{self.log_text()}\n{self.cluster.report(self.number)}"

    def stop_ranks(self):
        """Stops the ranks (SIGSTOP) in the middle of the run while no checkpoint is being written, so that the test does not
        depend on timing. They handle other signals after continue_ranks(). Returns False if the run ended first."""
        self.wait_for(lambda: self.run.metrics_line_count() >= 4, "four lines of metrics")
        while len(ranks := self.ranks()) == 2:
            slurm.send(signal.SIGSTOP, ranks)
            runs.wait_until(lambda: all(map(runs.is_stopped, ranks)), "all ranks to stop")
            if self.is_between_checkpoints():
                return True
            self.continue_ranks()
            time.sleep(0.02)
        return False

    def is_between_checkpoints(self):
        step, steps = self.run.metrics_line_count() * 10, self.run.checkpoints()
        is_writing = any(name.endswith(".tmp") for name in os.listdir(self.run.path("checkpoints")))
        return step < STEPS - 10 and steps[-1:] == [step // EVERY * EVERY] and len(steps) <= KEEP and not is_writing

    def ranks(self):
        return self.cluster.ranks(self.number, runs.CELFORGE)

    def continue_ranks(self):
        slurm.send(signal.SIGCONT, self.ranks())

    def wait_ended(self):
        self.wait_for(lambda: self.fields()["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), "end of the job")

    def wait_requeued(self):
        def is_requeued():
            fields = self.fields()
            return (fields["JobState"], fields["Restarts"]) == ("PENDING", "1")

        self.wait_for(is_requeued, "requeued")

    def restart(self):
        """Starts a requeued job, which Slurm would let wait for two minutes, and waits until it is completed. Starts three
        seconds from now: within the same second a node rejects the credential as that of the previous start."""
        self.cluster.call("scontrol", "update", f"JobId={self.number}", "StartTime=now+3")
        self.wait_completed()


def stopped_job(cluster, folder, data, name, *options, **environment):
    """Submits a job and stops its ranks in the middle of its first start. Tries again if the run ended first."""
    for number in range(4):
        job = Job(cluster, folder, data, f"{name}-{number}").submit(*options, **environment)
        if job.stop_ranks() and job.fields()["Restarts"] == "0":
            return job
        cluster.call("scancel", job.number, check=False)
        job.continue_ranks()
        job.wait_ended()
    raise AssertionError(f"{name}: each run ended before its ranks could be stopped\n{job.log_text()}")


def check_resumed(tap, job, uninterrupted, what):
    log = job.log_text()
    tap.check("resuming from" in log and "start 2, 2 ranks on n[1-2]" in log, f"{what} resumes on both nodes", log)
    check_result(tap, job, uninterrupted, what)


def check_result(tap, job, uninterrupted, what):
    differing = runs.difference(job.run.last_checkpoint(), uninterrupted.last_checkpoint())
    tap.check(not differing, f"{what}: the last checkpoint is that of an uninterrupted run",
              f"differing: {differing}\n{job.log_text()}")
    tap.check(job.run.metrics() == uninterrupted.metrics(),
              f"{what}: the metrics are those of an uninterrupted run, each step once")


def check_stopped(tap, job, what):
    """Checks, before the restart, that the run stopped after one signal and saved a checkpoint of its last step."""
    steps = job.run.checkpoints()
    tap.check(steps and 40 <= steps[-1] < STEPS and f"stopped by a signal after step {steps[-1]} " in job.log_text(),
              f"{what} saves a checkpoint of the step it stopped at", f"checkpoints {steps}\n{job.log_text()}")


def celforge(*arguments):
    return subprocess.run([runs.CELFORGE, *arguments], capture_output=True, text=True, timeout=LIMIT, check=False)


def check_readable(tap, job, what):
    info = celforge("info", job.run.folder)
    tap.check(info.returncode == 0 and f"step {job.run.checkpoints()[-1]}" in info.stdout,
              f"{what}: celforge info reads its last checkpoint", info.stdout + info.stderr)


def preempt(tap, job, check_signal, what):
    """Submits a job of higher priority that needs both nodes; check_signal(job, other) runs while `job` is preempted."""
    cluster = job.cluster
    other = cluster.submit("--partition=high", "--nodes=2", "--exclusive", f"--output={job.log}-high", "--wrap=true")
    check_signal(job, other)
    job.wait_for(lambda: cluster.job(other)["JobState"] == "COMPLETED", "end of the job that preempts it")
    job.wait_requeued()
    check_stopped(tap, job, what)


def test_preemption(tap, cluster, folder, data, uninterrupted):
    """Preemption by a job of higher priority"""
    def signalled_by_script(job, other):
        job.wait_for(lambda: "asked to stop: the ranks save a checkpoint" in job.log_text(), "asked to stop")
        tap.check(cluster.job(other)["JobState"] == "PENDING", "the other job waits during the grace time")
        job.continue_ranks()

    job = stopped_job(cluster, folder, data, "preempted", "--partition=low")
    preempt(tap, job, signalled_by_script, "a preempted job")
    job.restart()
    check_resumed(tap, job, uninterrupted, "a preempted job")


def test_preemption_by_term(tap, cluster, folder, data, uninterrupted):
    """Preemption of a job without --signal"""
    def signalled_by_slurm(job, _):
        """Slurm itself continues stopped processes before it sends TERM."""
        job.wait_for(lambda: "requeueing the job" in job.log_text(), "stopped")
        tap.check("asked to stop" not in job.log_text(), "without --signal the script sends no signal; Slurm sends TERM",
                  job.log_text())

    with open(TRAIN, encoding="utf-8") as file:
        lines = [line for line in file if not line.startswith("#SBATCH --signal")]
    script = os.path.join(folder, "train-without-signal.sbatch")
    with open(script, "w", encoding="utf-8") as file:
        file.writelines(lines)
    job = stopped_job(cluster, folder, data, "terminated", "--partition=low", script=script)
    preempt(tap, job, signalled_by_slurm, "a job preempted by TERM")
    job.restart()
    check_resumed(tap, job, uninterrupted, "a job preempted by TERM")


FAKE_APPTAINER = """\
#!/bin/bash
echo "$*" >>{folder}/apptainer.log
shift 4
"$@" &
trap 'kill -USR2 $!; echo forwarded >>{folder}/forwarded-signals' USR2
while kill -0 $! 2>/dev/null; do wait $!; done
wait $!
"""


def fake_apptainer(folder):
    """Writes a stand-in for apptainer that logs its arguments and runs the program without a container. Like the real one
    it keeps running and forwards signals, which the program also gets from Slurm."""
    path = os.path.join(folder, "bin", "apptainer")
    os.makedirs(os.path.dirname(path))
    with open(path, "w", encoding="utf-8") as file:
        file.write(FAKE_APPTAINER.format(folder=folder))
    os.chmod(path, stat.S_IRWXU)
    return os.path.dirname(path)


def line_count(path):
    if not os.path.exists(path):
        return 0
    with open(path, encoding="utf-8") as file:
        return len(file.readlines())


def test_time_limit(tap, cluster, folder, data, uninterrupted):
    """A job in a container that reaches its time limit"""
    path = fake_apptainer(folder) + ":" + cluster.environment["PATH"]
    job = stopped_job(cluster, folder, data, "limited", "--time=2", "--signal=B:USR1@75", PATH=path,
                      CONTAINER="celforge.sif")
    job.wait_for(lambda: "asked to stop: the ranks save a checkpoint" in job.log_text(), "asked to stop")
    # A stopped rank that gets the signal from both Slurm and the container handles one. If the second one arrived after the
    # rank was continued, it would kill the rank.
    job.wait_for(lambda: line_count(os.path.join(folder, "forwarded-signals")) == 2, "signals forwarded by the container")
    job.continue_ranks()
    job.wait_requeued()
    check_stopped(tap, job, "a job at its time limit")
    job.restart()
    check_resumed(tap, job, uninterrupted, "a job at its time limit")
    with open(os.path.join(folder, "apptainer.log"), encoding="utf-8") as file:
        calls = [line for line in file.read().splitlines() if job.run.config in line]
    expected = f"exec --bind {ROOT} celforge.sif {runs.CELFORGE} train {job.run.config} --resume auto"
    tap.check(calls == [expected] * 4, "CONTAINER: both ranks run in the container in both starts", "\n".join(calls))


def test_cancelled(tap, cluster, folder, data, uninterrupted):
    """A cancelled job"""
    job = stopped_job(cluster, folder, data, "cancelled")
    cluster.call("scancel", job.number)
    job.wait_ended()
    fields = job.fields()
    tap.check((fields["JobState"], fields["Restarts"]) == ("CANCELLED", "0"), "a cancelled job is not requeued", fields)
    check_stopped(tap, job, "a cancelled job")
    check_readable(tap, job, "a cancelled job")
    job.submit().wait_completed()
    check_result(tap, job, uninterrupted, "a cancelled job that is submitted again")


def test_node_failure(tap, cluster, folder, data, uninterrupted):
    """A node failure"""
    job = stopped_job(cluster, folder, data, "failed")
    steps = job.run.checkpoints()
    cluster.set_slurmd_timeout(5)
    cluster.fail_node("n2")
    job.wait_requeued()
    job.wait_for(lambda: cluster.states().get("n2", "").startswith("DOWN"), "node n2 to be down")
    tap.check("NODE FAILURE" in job.log_text(), "Slurm ends the job because of the node failure", job.log_text())
    cluster.set_slurmd_timeout(slurm.SLURMD_TIMEOUT)
    tap.check(job.run.checkpoints() == steps, "a node failure leaves the checkpoints unchanged", job.run.checkpoints())
    check_readable(tap, job, "a job that lost a node")
    cluster.start_node("n2")
    job.restart()
    check_resumed(tap, job, uninterrupted, "a job that lost a node")


CRASHING = """\
#!/bin/bash
for start in $(seq {crashes}); do
  if mkdir {folder}/rank-$SLURM_PROCID-start-$start 2>/dev/null; then kill -SEGV $$; fi
done
exec {celforge} "$@"
"""


def crashing_celforge(folder, crashes):
    """Writes a stand-in for celforge that crashes each rank in its first `crashes` starts and then runs celforge."""
    os.makedirs(folder)
    path = os.path.join(folder, "celforge")
    with open(path, "w", encoding="utf-8") as file:
        file.write(CRASHING.format(folder=folder, crashes=crashes, celforge=runs.CELFORGE))
    os.chmod(path, stat.S_IRWXU)
    return path


def test_crash(tap, cluster, folder, data, uninterrupted):
    """Ranks that crash"""
    job = Job(cluster, folder, data, "crashed").submit(CELFORGE=crashing_celforge(os.path.join(folder, "crash-once"), 1))
    job.wait_completed()
    log = job.log_text()
    tap.check("a rank crashed (exit code 139): restarting all ranks, 1 of 2 restarts" in log and "2 of 2" not in log,
              "after a crash all ranks are restarted on the same nodes", log)
    check_result(tap, job, uninterrupted, "a run whose ranks crashed")
    job = Job(cluster, folder, data, "crashing").submit(CELFORGE=crashing_celforge(os.path.join(folder, "crash-always"), 9))
    job.wait_for(lambda: job.fields()["JobState"] in ("COMPLETED", "FAILED"), "FAILED")
    fields, log = job.fields(), job.log_text()
    restarted = "restarting all ranks, 2 of 2 restarts" in log
    tap.check(fields["JobState"] == "FAILED" and fields["ExitCode"] in ("139:0", "0:11") and restarted,
              "after two restarts the next crash fails the job", f"{fields}\n{log}")


def test_sweep(tap, cluster, folder, data, uninterrupted):
    """A sweep as a job array"""
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
    differing = runs.difference(one.last_checkpoint(), uninterrupted.last_checkpoint())
    # The manifest contains the config, which has another samples.clips here.
    tap.check(differing in ("", "manifest.json"), "line 1 of a sweep trains with its settings", f"differing: {differing}")
    with open(two.path("config.yaml"), encoding="utf-8") as file:
        config = file.read()
    tap.check("  clip: 4\n" in config and "  clips: 2\n" in config and two.checkpoints()[-1] == STEPS,
              "line 2 trains with its own, one with a space in it; the options of all lines apply to it", config)


def test_pack(tap, cluster, folder):
    """Packing videos as a job array and joining the parts"""
    videos = [os.path.join(folder, name) for name in ("a video.mp4", "another.mp4")]
    for seed, video in enumerate(videos, 1):
        made = celforge("synth", video, "--frames", str(8 * seed), "--size", "64x64", "--seed", str(seed))
        if made.returncode != 0 and "FFmpeg" in made.stderr:
            tap.skip("packing videos as a job array", "no FFmpeg in this build")
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
    info, verified = celforge("info", dataset), celforge("verify", dataset)
    tap.check(verified.returncode == 0 and "clips        6 in 2 shards" in info.stdout,
              "videos of 8 and 16 frames, packed in clips of 4, are joined into a dataset of 6 clips",
              info.stdout + info.stderr + verified.stderr)
    parts = sorted(os.listdir(f"{dataset}.parts"))
    tap.check(parts == ["000001", "000002"], "each task of the array writes a part", parts)
    again = cluster.submit("--array=2", *common, *options, CELFORGE=runs.CELFORGE)
    cluster.wait_for(lambda: cluster.job(again).get("JobState") == "COMPLETED", LIMIT, "packing part 2 again", again)
    with open(f"{folder}/pack-{again}_2.log", encoding="utf-8") as file:
        tap.check("000002 is complete already" in file.read(), "a complete part is not packed again")


def test_wrong_launch(tap, cluster, folder, data):
    """Ranks started without MPI"""
    run = runs.Run(os.path.join(folder, "alone"), data, SETTINGS)
    run.write_config()
    done = subprocess.run(["srun", "--mpi=none", "--nodes=2", "--ntasks=2", runs.CELFORGE, "train", run.config],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=False,
                          env=cluster.environment)
    is_reported = all(f"MPI connects 1: task {task} on node n{task + 1} would train alone; use srun --mpi=pmix" in done.stderr
                for task in (0, 1))
    tap.check(done.returncode == 64 and is_reported,
              "srun --mpi=none: each task refuses to train alone and names the option to use", f"exit code {done.returncode}\n{done.stderr}")
    tap.check(not os.path.exists(run.folder), "srun --mpi=none: no run folder is created")


def test_mpirun(tap, cluster, folder, data, uninterrupted):
    """mpirun in a Slurm job"""
    job = Job(cluster, folder, data, "mpirun")
    job.run.write_config()
    job.log = f"{job.run.folder}.log"
    job.number = cluster.submit("--nodes=2", "--ntasks-per-node=1", f"--output={job.log}",
                                f"--wrap=mpirun -np 2 {runs.CELFORGE} train {job.run.config}")
    job.wait_completed()
    check_result(tap, job, uninterrupted, "mpirun in a job of two nodes")


def run_tests(tap, cluster, folder):
    data = runs.synth(os.path.join(folder, "data"))
    uninterrupted = runs.Run(os.path.join(folder, "uninterrupted"), data, SETTINGS).must_train(2)
    compared = [test_preemption, test_preemption_by_term, test_time_limit, test_cancelled, test_crash, test_sweep, test_mpirun,
                 test_node_failure]
    for test, arguments in [(test_wrong_launch, (data,)), (test_pack, ()),
                            *((test, (data, uninterrupted)) for test in compared)]:
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # runs all `finally` blocks
    folder = tempfile.mkdtemp(prefix="celforge-slurm-")
    try:
        os.makedirs(os.path.join(folder, "cluster"))
        with slurm.Cluster(os.path.join(folder, "cluster")) as cluster:
            run_tests(tap, cluster, folder)
        left = cluster.processes()
        tap.check(not left, "no process is left after the cluster is stopped", left)
    except (OSError, AssertionError, subprocess.SubprocessError) as error:
        tap.check(False, "starting a cluster of two nodes", f"{type(error).__name__}: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tap.end()


if __name__ == "__main__":
    main()
