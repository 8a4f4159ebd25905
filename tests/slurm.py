"""A private Slurm of two nodes on this host: its own key, ports and folder, started and stopped by process id."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
NODES = ("n1", "n2")

_CONF = """\
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdTimeout=5
KillWait=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=8000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""


def unavailable() -> str:
    """Why there can be no cluster here; empty where there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)}); on Debian: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "Slurm's daemons are started as root"


def wait_for(what: str, happened: Callable[[], object], seconds: float) -> None:
    """Look until it has happened; TimeoutError with the words ``what`` after ``seconds``."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.1)


class Cluster:
    """Two nodes of two jobs each. ``environment`` is what a program needs to submit here."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Bring everything up and wait until both nodes take jobs."""
        for name in ("munge", "state", "log", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(mode=0o700)
        munge = self.folder / "munge"
        (munge / "key").write_bytes(secrets.token_bytes(1024))
        (munge / "key").chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        conf = self.folder / "slurm.conf"
        conf.write_text(_CONF.format(host=host, folder=self.folder, ports=_free_ports(3)))
        files = [f"--{kind}-file={munge / kind}" for kind in ("key", "pid", "log", "seed")]
        self._launch("munged", "munged", "-F", "--force", f"--socket={munge / 'sock'}", *files)
        wait_for("munged", (munge / "sock").exists, 20)
        self._launch("slurmctld", "slurmctld", "-D", "-f", str(conf))
        for node in NODES:
            self.start_node(node)
        wait_for("both nodes", lambda: self.states() == {node: "idle" for node in NODES}, 60)

    def start_node(self, node: str) -> None:
        self._launch(node, "slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf"))

    def kill_node(self, node: str) -> None:
        """What a power cut leaves: the node's daemon, its job managers and its jobs are gone at once."""
        jobs = [pid for pid in self._ours() if _environment(pid).get("SLURMD_NODENAME") == node]
        managers = {_parent(pid) for pid in jobs} - {*jobs}
        self._daemons.pop(node).kill()
        # managers first, or they would report their jobs' deaths
        _kill([pid for pid in managers if b"slurmstepd" in _read(pid, "cmdline")])
        _kill(jobs)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def run(self, *command: str) -> str:
        """The output of a Slurm program; a failure or silence of half a minute is an error."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def states(self) -> dict[str, str]:
        """Node by node: idle, mixed, down, ..."""
        try:
            lines = self.run("sinfo", "-h", "-N", "-o", "%N %T").splitlines()
        except RuntimeError:  # the controller is not up yet
            return {}
        return {node: state for node, state in (line.split() for line in lines)}

    def jobs(self, state: str = "pending,running,completing") -> list[str]:
        """Ids of the jobs in the queue that are in one of these states."""
        return self.run("squeue", "-h", "-r", "-t", state, "-o", "%i").split()

    def cancel_all(self) -> None:
        """Cancel every job and wait until the queue is empty."""
        if self.jobs():
            self.run("scancel", "--full", *self.jobs())
        wait_for("an empty queue", lambda: not self.jobs(), 60)

    def stop(self) -> None:
        """End every process of this cluster, whatever state it is in."""
        for name in (*NODES, "slurmctld", "munged"):
            if name in self._daemons:
                self._daemons.pop(name).kill()
        _kill(self._ours())

    def _launch(self, name: str, *command: str) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _ours(self) -> list[int]:
        """Processes that run under this cluster's configuration, this one's children that submit included."""
        return [pid for pid in _processes() if _environment(pid).get("SLURM_CONF") == self.environment["SLURM_CONF"]]


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that is gone afterwards, whatever happens."""
    slurm = Cluster(folder)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and int(path.name) != os.getpid()]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended, or is not ours to look at
        return b""


def _environment(pid: int) -> dict[str, str]:
    pairs = (entry.partition(b"=") for entry in _read(pid, "environ").split(b"\0"))
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, _, value in pairs}


def _parent(pid: int) -> int:
    return int(_read(pid, "stat").rpartition(b")")[2].split()[1] or 0)


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
