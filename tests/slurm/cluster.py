"""Starts a Slurm cluster of two virtual nodes on this machine, for tests: slurmctld and two slurmd in a temporary folder.
It needs no root, systemd, munge or database. The virtual nodes share this host and its host name."""
import ctypes
import getpass
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo", "scancel", "mpirun")
NODES = ("n1", "n2")
CLUSTER_VARIABLE = "CELFORGE_TEST_CLUSTER"  # environment variable of all processes in the cluster; its value is the folder
START_LIMIT = 90  # seconds until all nodes are idle
START_ATTEMPTS = 3
SLURMD_TIMEOUT = 60  # seconds without an answer from slurmd after which its node is down

# Reasons for unusual settings:
#   auth/none, cred/none      without munge the daemons trust each other; all run as the same user
#   config_overrides          nodes have the number of cores given here, not the machine's
#   TmpFS per node            otherwise both slurmd would use the same folder for PMIx below /tmp
#   preempt_send_user_signal  a preempted job first gets the signal of --signal, then its grace time
#   SlurmdTimeout             long, because daemons answer late on a busy machine; set_slurmd_timeout() changes it
CONFIG = """\
ClusterName=celforge
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
TmpFS={folder}/tmp-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=pmix
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout={timeout}
MessageTimeout=30
KillWait=30
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cores} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cores} State=UNKNOWN
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime=60 PreemptMode=REQUEUE
PartitionName=high Nodes=n1,n2 PriorityTier=9 PreemptMode=OFF
"""


def missing():
    """Returns the reason why no cluster can be started here, or ""."""
    absent = [name for name in PROGRAMS if not find(name)]
    return f"no {', '.join(absent)}" if absent else ""


def find(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def free_ports(count):
    """Returns ports that are free now, below the range from which the system assigns ports."""
    ports, generator = set(), random.SystemRandom()
    while len(ports) < count:
        with socket.socket() as probe:
            port = generator.randrange(20000, 32000)
            try:
                probe.bind(("127.0.0.1", port))
                ports.add(port)
            except OSError:
                pass
    return list(ports)


def executable(process):
    try:
        return os.readlink(f"/proc/{process}/exe")
    except OSError:
        return ""


def parent(process):
    try:
        with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def send(number, processes):
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            pass


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Cluster:
    def __init__(self, folder, cores=4):
        self.folder = folder
        self.daemons = {}
        for name in ("state", *(f"{kind}-{node}" for kind in ("spool", "tmp") for node in NODES)):
            os.makedirs(os.path.join(folder, name))
        self.config = os.path.join(folder, "slurm.conf")
        self.cores = cores
        # If the tests run inside a Slurm or MPI job, its variables must not reach the test's jobs.
        self.environment = {key: value for key, value in os.environ.items()
                            if not key.startswith(("SLURM_", "SBATCH_", "PMIX_", "OMPI_"))}
        self.environment.update({
            "SLURM_CONF": self.config, CLUSTER_VARIABLE: folder, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
            # Both nodes are on one host, but Open MPI must use TCP between them, not shared memory.
            "OMPI_MCA_btl": "tcp,self", "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl_tcp_if_include": "lo",
            "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"})

    def __enter__(self):
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                self.start_all()
                return self
            except AssertionError:  # another process may have taken a port meanwhile
                self.__exit__(*sys.exc_info())
                if attempt == START_ATTEMPTS:
                    raise
            except BaseException:
                self.__exit__(*sys.exc_info())
                raise

    def __exit__(self, *_):
        for name in [*NODES, "slurmctld"]:
            if name in self.daemons:
                self.stop(name)
        self.kill_processes()

    def start_all(self):
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(CONFIG.format(host=socket.gethostname().split(".")[0], user=getpass.getuser(), folder=self.folder,
                                     ports=free_ports(1 + len(NODES)), cores=self.cores, timeout=SLURMD_TIMEOUT))
        self.start("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            self.start(node, "slurmd", "-D", "-N", node)
        self.wait_idle()

    def wait_idle(self):
        def are_idle():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            assert not dead, f"{', '.join(dead)} exited\n{self.report('')}"
            return self.states() == {node: "IDLE" for node in NODES}

        self.wait_for(are_idle, START_LIMIT, "all nodes to be idle")

    def set_slurmd_timeout(self, seconds):
        """Sets after how many seconds without an answer from its slurmd a node is down."""
        with open(self.config, encoding="utf-8") as file:
            text = file.read()
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(re.sub("SlurmdTimeout=.*", f"SlurmdTimeout={seconds}", text))
        self.call("scontrol", "reconfigure")

    def start_node(self, node):
        self.start(node, "slurmd", "-D", "-N", node)
        self.wait_idle()

    def start(self, name, program, *arguments):
        with open(os.path.join(self.folder, f"{name}.out"), "ab") as out:
            self.daemons[name] = subprocess.Popen([find(program), *arguments], stdin=subprocess.DEVNULL, stdout=out,
                                                  stderr=out, env=self.environment, preexec_fn=die_with_parent)

    def stop(self, name):
        daemon = self.daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def processes(self, *words):
        """Returns the ids of all processes in the cluster except the daemons; only those with all `words` (VARIABLE=VALUE)
        in their environment."""
        own = {os.getpid(), *(daemon.pid for daemon in self.daemons.values())}
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) in own:
                continue
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    variables = set(file.read().decode(errors="replace").split("\0"))
            except OSError:
                continue
            if variables.issuperset([f"{CLUSTER_VARIABLE}={self.folder}", *words]):
                found.append(int(entry))
        return found

    def ranks(self, job, program):
        """Returns the ids of a job's processes that run the program."""
        return [process for process in self.processes(f"SLURM_JOB_ID={job}") if executable(process) == program]

    def kill_processes(self):
        """Kills the job steps and their tasks, which outlive the daemons. Repeats until three searches in a row find
        none, because a process that is just being started can be missed once."""
        deadline, empty = time.monotonic() + 60, 0
        while empty < 3 and time.monotonic() < deadline:
            remaining = self.processes()
            empty = 0 if remaining else empty + 1
            send(signal.SIGKILL, remaining)
            time.sleep(0.05)

    def fail_node(self, node):
        """Kills a node's slurmd and all of its processes, as if the machine had lost power. slurmstepd dies first: it would
        report the end of its tasks."""
        self.stop(node)
        tasks = self.processes(f"SLURMD_NODENAME={node}")
        managers = {parent(task) for task in tasks}
        send(signal.SIGKILL, [process for process in managers if executable(process).endswith("slurmstepd")] + tasks)

    def call(self, *command, check=True, **environment):
        done = subprocess.run([find(command[0]), *command[1:]], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=120, env={**self.environment, **environment}, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def wait_for(self, condition, limit, what, job=""):
        deadline = time.monotonic() + limit
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"timed out after {limit} s waiting for {what}\n{self.report(job)}")
            time.sleep(0.2)

    def states(self):
        lines = self.call("sinfo", "--noheader", "-N", "-o", "%N %T", check=False).split("\n")
        return {line.split()[0]: line.split()[1].upper() for line in lines if line}

    def submit(self, *arguments, **environment):
        """Submits a job and returns its id."""
        return self.call("sbatch", "--parsable", *arguments, **environment).strip().split(";")[0]

    def job(self, number):
        """Returns a job's fields as scontrol shows them. Repeats the query while the controller is too busy to answer."""
        fields = {}

        def has_state():
            text = self.call("scontrol", "--oneliner", "show", "job", number, check=False)
            fields.update(field.split("=", 1) for field in text.split() if "=" in field)
            return "JobState" in fields

        self.wait_for(has_state, START_LIMIT, f"the state of job {number}")
        return fields

    def report(self, job):
        """Returns the queue, the job's fields and the ends of the daemons' logs, to explain a failed test."""
        parts = [self.call("squeue", "-a", check=False)]
        if job:
            parts.append(self.call("scontrol", "show", "job", job, check=False))
        for name in ("slurmctld.log", *(f"slurmd-{node}.log" for node in NODES)):
            path = os.path.join(self.folder, name)
            if os.path.exists(path):
                with open(path, encoding="utf-8", errors="replace") as file:
                    parts += [name, *file.read().splitlines()[-25:]]
        return "\n".join(parts)
