"""A Slurm cluster of two nodes on this machine, for tests: slurmctld and two slurmd, in a folder of their own,
without systemd, munge or a database, as root or as anybody. Virtual nodes share this host and its name."""
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
MARK = "CELFORGE_TEST_CLUSTER"  # in the environment of all that runs in the cluster: its folder
START_LIMIT = 90  # seconds until the nodes are idle
STARTS = 3        # before it is given up
TIMEOUT = 60     # seconds with a daemon that says nothing

# Unusual settings, and their reasons:
#   auth/none, cred/none     no munge: the daemons trust each other, which on one machine are the same user
#   config_overrides         nodes have the cores that are written here, not the machine's
#   TmpFS per node           two slurmd on one host would share PMIx's folder below /tmp
#   preempt_send_user_signal a preempted job gets its --signal first, then its grace time
#   SlurmdTimeout            long, for a busy machine may leave a daemon waiting; see be_patient
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
    """Why there can be no cluster here, or an empty text."""
    absent = [name for name in PROGRAMS if not find(name)]
    return f"no {', '.join(absent)}" if absent else ""


def find(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def free_ports(count):
    """Free now, and below the range from which the system assigns ports."""
    ports, moments = set(), random.SystemRandom()
    while len(ports) < count:
        with socket.socket() as probe:
            port = moments.randrange(20000, 32000)
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
        # A login shell's Slurm or MPI job must not be taken for the test's.
        self.environment = {key: value for key, value in os.environ.items()
                            if not key.startswith(("SLURM_", "SBATCH_", "PMIX_", "OMPI_"))}
        self.environment.update({
            "SLURM_CONF": self.config, MARK: folder, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
            # One host has the names of two: shared memory and fast paths between "hosts" must be off.
            "OMPI_MCA_btl": "tcp,self", "OMPI_MCA_pml": "ob1", "OMPI_MCA_btl_tcp_if_include": "lo",
            "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"})

    def __enter__(self):
        for number in range(1, STARTS + 1):
            try:
                self.start_all()
                return self
            except AssertionError:  # somebody else may have taken a port by now
                self.__exit__(*sys.exc_info())
                if number == STARTS:
                    raise
            except BaseException:
                self.__exit__(*sys.exc_info())
                raise

    def __exit__(self, *_):
        for name in [*NODES, "slurmctld"]:
            if name in self.daemons:
                self.stop(name)
        self.kill_rest()

    def start_all(self):
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(CONFIG.format(host=socket.gethostname().split(".")[0], user=getpass.getuser(), folder=self.folder,
                                     ports=free_ports(1 + len(NODES)), cores=self.cores, timeout=TIMEOUT))
        self.start("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            self.start(node, "slurmd", "-D", "-N", node)
        self.wait_idle()

    def wait_idle(self):
        def are_idle():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            assert not dead, f"{', '.join(dead)} ended\n{self.report('')}"
            return self.states() == {node: "IDLE" for node in NODES}

        self.wait_for(are_idle, START_LIMIT, "idle nodes")

    def set_timeout(self, seconds):
        """Whose daemon is silent for so long is taken for a node that is down."""
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
        """Ids of what runs in the cluster beside the daemons, and has every word in its environment."""
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
            if variables.issuperset([f"{MARK}={self.folder}", *words]):
                found.append(int(entry))
        return found

    def ranks(self, job, program):
        """The processes of a job's steps that run the program."""
        return [process for process in self.processes(f"SLURM_JOB_ID={job}") if executable(process) == program]

    def kill_rest(self):
        """Steps and their tasks outlive the daemons; who is just being started is seen the second time."""
        deadline, empty = time.monotonic() + 60, 0
        while empty < 3 and time.monotonic() < deadline:
            rest = self.processes()
            empty = 0 if rest else empty + 1
            send(signal.SIGKILL, rest)
            time.sleep(0.05)

    def fail_node(self, node):
        """The machine is gone: its slurmd and all that it runs, the steps' managers first, so that nobody tells."""
        self.stop(node)
        tasks = self.processes(f"SLURMD_NODENAME={node}")
        managers = {parent(task) for task in tasks}
        send(signal.SIGKILL, [process for process in managers if executable(process).endswith("slurmstepd")] + tasks)

    def call(self, *command, check=True, **more):
        done = subprocess.run([find(command[0]), *command[1:]], stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=120, env={**self.environment, **more}, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def wait_for(self, condition, limit, what, job=""):
        deadline = time.monotonic() + limit
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {limit} s in vain for {what}\n{self.report(job)}")
            time.sleep(0.2)

    def states(self):
        lines = self.call("sinfo", "--noheader", "-N", "-o", "%N %T", check=False).split("\n")
        return {line.split()[0]: line.split()[1].upper() for line in lines if line}

    def submit(self, *arguments, **more):
        return self.call("sbatch", "--parsable", *arguments, **more).strip().split(";")[0]

    def job(self, number):
        """A job's fields as scontrol shows them; a controller that is busy is asked again."""
        fields = {}

        def is_told():
            text = self.call("scontrol", "--oneliner", "show", "job", number, check=False)
            fields.update(field.split("=", 1) for field in text.split() if "=" in field)
            return "JobState" in fields

        self.wait_for(is_told, START_LIMIT, f"word of job {number}")
        return fields

    def report(self, job):
        """What the cluster says of itself and of a job, for a test that failed."""
        said = [self.call("squeue", "-a", check=False)]
        if job:
            said.append(self.call("scontrol", "show", "job", job, check=False))
        for name in ("slurmctld.log", *(f"slurmd-{node}.log" for node in NODES)):
            path = os.path.join(self.folder, name)
            if os.path.exists(path):
                with open(path, encoding="utf-8", errors="replace") as file:
                    said += [name, *file.read().splitlines()[-25:]]
        return "\n".join(said)
