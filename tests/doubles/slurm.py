"""A real Slurm on machines of its own: Debian's slurmctld, slurmd and munged in the namespaces of tests.doubles.nodes.

    with Slurm(folder, 2, [public_key]) as slurm:
        slurm.login                   # the node people log in to: tests.doubles.nodes.Node; the first compute node too
        slurm.call("squeue")          # there, without SSH
        slurm.refuse_to_begin(True)   # every prolog fails from now on; Slurm then drains the node and holds the job

All nodes share the login node's home, as the nodes of a cluster do. There is no accounting (sacct), as on many small
clusters. Partitions: `debug` (everything, the default), `closed` (takes jobs, starts none), `urgent` (pre-empts those
of `debug`, which Slurm requeues). One GPU a node, which is /dev/null. A requeued job waits for six seconds, the least
that Slurm allows, where two minutes are its default. Needs root, Linux, and the packages slurm-wlm and munge;
`reason_to_skip` says.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from launcher.providers import local_sshd
from tests.doubles import nodes as network
from tests.doubles.nodes import Node, Nodes

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "scancel", "srun")
CORES = 16
"""As every node claims to have, so that several tiny jobs run at once wherever the tests do."""


def reason_to_skip() -> str:
    """Why there can be no Slurm here; "" where there can."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *local_sshd.SBIN])
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        return f"not installed here: {', '.join(missing)} (apt-get install slurm-wlm munge)"
    return network.reason_to_skip()


class Slurm:
    """A cluster, ready to take jobs. Everything of it ends with the block, or with the process that made it."""

    def __init__(self, folder: Path, count: int = 1, keys: Sequence[str] = ()) -> None:
        self.folder = folder
        self._etc = folder / "etc"
        self._etc.mkdir(parents=True)
        self.nodes = Nodes(folder / "nodes", count, keys)
        try:
            self._configure()
            for node in self.nodes.all:
                self._furnish(node)
            self.login.call("slurmctld")
            for node in self.nodes.all:
                node.call("slurmd", "-N", node.name)
            self.await_idle()
        except BaseException:
            self.nodes.end()
            raise

    @property
    def login(self) -> Node:
        """Where people log in and submit."""
        return self.nodes[0]

    def __enter__(self) -> Slurm:
        return self

    def __exit__(self, *_: object) -> None:
        self.nodes.end()

    def call(self, *argv: str) -> str:
        """What a command says on the login node. Raises where it fails."""
        return self.login.call(*argv)

    def jobs(self) -> list[str]:
        """The ids of the jobs that wait or run."""
        return self.call("squeue", "--noheader", "--format=%i").split()

    def refuse_to_begin(self, refuses: bool) -> None:
        """Whether every prolog fails. Ending it brings the nodes back that Slurm has drained for it."""
        (self._etc / "refuses").write_text("1" if refuses else "0")
        if not refuses:
            for node in self.nodes.all:
                state = self.call("scontrol", "show", "node", "--oneliner", node.name)
                if "DRAIN" in state:
                    self.call("scontrol", "update", f"NodeName={node.name}", "State=RESUME")
            self.await_idle()

    def await_idle(self) -> None:
        """Until every node could take a job."""
        wanted = ["idle"] * len(self.nodes)
        deadline = time.monotonic() + network.START_SECONDS
        while (states := self._states()) != wanted:
            assert time.monotonic() < deadline, f"{states}\n{self._logs()}"
            time.sleep(0.05)

    def _states(self) -> list[str]:
        try:
            return self.call("sinfo", "--noheader", "--Node", "--partition=debug", "--format=%t").split()
        except Exception as error:  # noqa: BLE001 - the controller does not listen yet
            return [str(error)]

    def _logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("*.log")))

    def _configure(self) -> None:
        hosts = "".join(f"{node.address.host} {node.name}\n" for node in self.nodes.all)
        (self._etc / "hosts").write_text("127.0.0.1 localhost\n" + hosts)
        (self._etc / "slurm.conf").write_text(self._slurm_conf())
        (self._etc / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        (self._etc / "munge.key").write_bytes(os.urandom(1024))
        (self._etc / "munge.key").chmod(0o600)
        (self._etc / "refuses").write_text("0")
        (self._etc / "prolog").write_text(f"#!/bin/sh\nexit $(cat '{self._etc}/refuses')\n")
        (self._etc / "prolog").chmod(0o755)

    def _furnish(self, node: Node) -> None:
        """Its own view of /etc/slurm, /etc/hosts and munge's socket; the login node's home; then munged."""
        spool = self.folder / f"spool-{node.name}"
        spool.mkdir()
        home = self.login.home
        node.call(
            "sh", "-ec", f"""
            mkdir -p /etc/slurm /run/munge
            mount --bind '{self._etc}' /etc/slurm
            mount --bind '{self._etc}/hosts' /etc/hosts
            mount -t tmpfs -o mode=755 munge /run/munge
            mount --bind '{home}' '{node.home_there}'
            munged --force --key-file='{self._etc}/munge.key' --seed-file='{spool}/seed' \\
                --pid-file=/run/munge/munged.pid --log-file='{self.folder}/munged-{node.name}.log'
            """,
        )  # fmt: skip

    def _slurm_conf(self) -> str:
        machines = "\n".join(
            f"NodeName={node.name} NodeAddr={node.address.host} CPUs={CORES} RealMemory=1000 Gres=gpu:1 State=UNKNOWN"
            for node in self.nodes.all
        )
        return f"""\
ClusterName=test
SlurmctldHost={self.login.name}({self.login.address.host})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool-%n
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd-%n.pid
SlurmctldLogFile={self.folder}/slurmctld.log
SlurmdLogFile={self.folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
Prolog={self._etc}/prolog
PrologFlags=Alloc
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
KillWait=60
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
{machines}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9
PartitionName=closed Nodes=ALL MaxTime=INFINITE State=DOWN
"""
