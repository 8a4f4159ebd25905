"""A private Slurm of two nodes on this machine: its own key, ports and folder, started and stopped
by process id."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import hosts

SECONDS = 120  # the most that Slurm may take over anything; a busy machine needs a few
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
NODES = ("n1", "n2")

_CONF = """\
ClusterName=bench
SlurmctldHost={host}({here})
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
NodeName=n1 NodeHostname={host} NodeAddr={addresses[n1]} Port={ports[1]} {size}
NodeName=n2 NodeHostname={host} NodeAddr={addresses[n2]} Port={ports[2]} {size}
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""
_ENTER = """\
hostname "$0" && mount --bind "$1" /etc/hosts || exit
mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray && shift || exit
"$@" & wait $!
"""
"""What becomes of a shell in namespaces of its own: a host's first process, which also sees to
orphans."""


def unavailable() -> str:
    """Why there can be no cluster here; empty where there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return (
            f"Slurm is not installed ({', '.join(missing)}); on Debian: apt-get install "
            f"slurm-wlm munge"
        )
    return "" if os.geteuid() == 0 else "Slurm's daemons are started as root"


def wait_for(what: str, happened: Callable[[], object], seconds: float) -> None:
    """Look until it has happened; TimeoutError with the words ``what`` after ``seconds``."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.1)


class Cluster:
    """Two nodes of two jobs each. ``environment`` is what a program needs to submit here.

    With ``separate`` a node is a host of its own by all that programs see: name, network,
    processes, /tmp/ray.
    """

    def __init__(self, folder: Path, separate: bool = False):
        self.folder = folder
        self._hosts = {node: hosts.Host(10 + i) for i, node in enumerate(NODES)} if separate else {}
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
        addresses = {
            node: self._hosts[node].address if self._hosts else "127.0.0.1" for node in NODES
        }
        here = hosts.HERE if self._hosts else "127.0.0.1"
        conf.write_text(
            _CONF.format(
                host=host,
                here=here,
                addresses=addresses,
                folder=self.folder,
                ports=_free_ports(3),
                size="CPUs=2 RealMemory=8000 State=UNKNOWN",
            )
        )
        names = {"localhost": "127.0.0.1", host: here, **addresses}
        (self.folder / "hosts").write_text(
            "".join(f"{address} {name}\n" for name, address in names.items())
        )
        files = [f"--{kind}-file={munge / kind}" for kind in ("key", "pid", "log", "seed")]
        self._launch("munged", "munged", "-F", "--force", f"--socket={munge / 'sock'}", *files)
        wait_for("munged", (munge / "sock").exists, SECONDS)
        self._launch("slurmctld", "slurmctld", "-D", "-f", str(conf))
        for node in NODES:
            self.start_node(node)
        wait_for("both nodes", lambda: self.states() == {node: "idle" for node in NODES}, SECONDS)

    def start_node(self, node: str) -> None:
        inside: tuple[str, ...] = ()
        if self._hosts:
            own = ("--pid", "--fork", "--kill-child", "--mount-proc", "--uts")
            inside = (
                *self._hosts[node].inside,
                "unshare",
                *own,
                "sh",
                "-c",
                _ENTER,
                node,
                str(self.folder / "hosts"),
            )
        self._launch(
            node, *inside, "slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf")
        )

    def kill_node(self, node: str) -> None:
        """What a power cut leaves: the node's daemon, its job managers and its jobs are gone at
        once."""
        jobs = [
            pid for pid in self._ours() if hosts.environment(pid).get("SLURMD_NODENAME") == node
        ]
        managers = {hosts.parent(pid) for pid in jobs} - {*jobs}
        self._daemons.pop(node).kill()
        # managers first, or they would report their jobs' deaths
        hosts.kill([pid for pid in managers if b"slurmstepd" in hosts.read(pid, "cmdline")])
        hosts.kill(jobs)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def run(self, *command: str) -> str:
        """The output of a Slurm program; a failure or a long silence is an error."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=SECONDS
        )
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

    def restarts(self, job: str) -> int:
        """How often a job was queued again."""
        found = re.search(r"Restarts=(\d+)", self.run("scontrol", "show", "job", job))
        return int(found[1]) if found else 0

    def cancel_all(self) -> None:
        """Cancel every job and wait until the queue is empty."""
        if self.jobs():
            self.run("scancel", "--full", *self.jobs())
        wait_for("an empty queue", lambda: not self.jobs(), SECONDS)

    def stop(self) -> None:
        """End every process of this cluster, whatever state it is in."""
        for name in (*NODES, "slurmctld", "munged"):
            if name in self._daemons:
                self._daemons.pop(name).kill()
        hosts.kill(self._ours())

    def _launch(self, name: str, *command: str) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _ours(self) -> list[int]:
        """Processes that run under this cluster's configuration, this one's children that submit
        included."""
        conf = self.environment["SLURM_CONF"]
        return [
            pid for pid in hosts.processes() if hosts.environment(pid).get("SLURM_CONF") == conf
        ]


@contextmanager
def cluster(folder: Path, separate: bool = False) -> Iterator[Cluster]:
    """A cluster that is gone afterwards, whatever happens."""
    slurm = Cluster(folder, separate)
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
