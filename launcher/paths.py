"""Every path of a run, here and on the host, spelled once.

Remote paths are relative to the remote home, where SSH commands and rsync
start, so none needs a `~` that quoting would take away.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import platformdirs


@dataclass(frozen=True)
class StatePaths:
    """The user's state: spending is per user, not per folder. `GPTOPS_HOME` overrides the place."""

    root: Path

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.sqlite3"

    @property
    def private_key(self) -> Path:
        return self.root / "keys" / "id_ed25519"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    def host_lock(self, name: str) -> Path:
        """Held by whoever opens or ends the host of that name."""
        return self.locks / f"host-{name}.lock"

    def start_lock(self, name: str) -> Path:
        """Held by whoever starts a run on that host, or ends the host: a run never begins behind the last look."""
        return self.locks / f"start-{name}.lock"

    @property
    def audit_log(self) -> Path:
        """One JSON line for every step that opened, changed or ended something."""
        return self.root / "audit.jsonl"

    def host(self, name: str) -> Path:
        """Folder of one open host: its pinned key, its ssh_config. Gone when the host is."""
        return self.root / "hosts" / name

    def known_hosts(self, name: str) -> Path:
        """gptops' own, one a host, so that two processes never write the same file; never the user's ~/.ssh."""
        return self.host(name) / "known_hosts"

    @property
    def ssh_include(self) -> Path:
        """What the user's own ~/.ssh/config may include: plain `ssh gptops-NAME` then finds the open hosts."""
        return self.root / "ssh_config"

    def provider(self, provider: str) -> Path:
        """Folder of a provider that keeps its own books (`local`, `ssh`)."""
        return self.root / "providers" / provider

    @property
    def control_sockets(self) -> Path:
        """Short on purpose: a UNIX socket's path may have 104 bytes on macOS."""
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        return Path(base) / f"gptops-{os.getuid()}"


def state_paths() -> StatePaths:
    """Where this user's state lies; nothing is created."""
    override = os.environ.get("GPTOPS_HOME")
    return StatePaths(Path(override).absolute() if override else Path(platformdirs.user_state_dir("gptops")))


@dataclass(frozen=True)
class LocalRun:
    """A run at home: `<project>/runs/<run_id>/`."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def incoming(self) -> Path:
        """Where transfers land until they are verified; rsync resumes here."""
        return self.root / ".incoming"

    @property
    def log(self) -> Path:
        """A byte-for-byte prefix of the host's log. Its size is the offset to go on from."""
        return self.root / "train.log"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def batch(self) -> Path:
        """What was submitted, where Slurm has the run; else there is none."""
        return self.root / "job.sbatch"

    def of_node(self, node: int) -> LocalRun:
        """The same run as one of its nodes tells it: node 0's log is the run's."""
        return NodeRun(self.root, node) if node else self


@dataclass(frozen=True)
class NodeRun(LocalRun):
    """The log of another node than the first."""

    node: int = 1

    @property
    def log(self) -> Path:
        return self.root / f"train.node{self.node}.log"


@dataclass(frozen=True)
class RemoteRun:
    """A run on the host: `~/gptops/<run_id>/`."""

    run_id: str
    node: int = 0
    """Whose log, where one folder holds the logs of all nodes (templates/slurm.sh)."""

    @property
    def root(self) -> PurePosixPath:
        return REMOTE_ROOT / self.run_id

    @property
    def preparing(self) -> PurePosixPath:
        """Where it is put together; renamed to `root` at the moment it starts, so nobody finds half a run."""
        return REMOTE_ROOT / "preparing" / self.run_id

    @property
    def code(self) -> PurePosixPath:
        return self.root / "code"

    @property
    def env_file(self) -> PurePosixPath:
        """Values for run.sh, one shell assignment a line, mode 0600."""
        return self.root / "run.env"

    @property
    def train_yaml(self) -> PurePosixPath:
        return self.root / "train.yaml"

    @property
    def setup_script(self) -> PurePosixPath:
        return self.root / "setup.sh"

    @property
    def run_script(self) -> PurePosixPath:
        return self.root / "run.sh"

    @property
    def log(self) -> PurePosixPath:
        return self.root / "logs" / "train.log"

    @property
    def status(self) -> PurePosixPath:
        """One small file a fact: phase, pid, pgid, heartbeat, exit_code. The truth about what runs."""
        return self.root / "status"

    @property
    def checkpoints(self) -> PurePosixPath:
        return self.root / "checkpoints"

    @property
    def metrics(self) -> PurePosixPath:
        return self.root / "metrics.jsonl"


REMOTE_ROOT = PurePosixPath("gptops")
REMOTE_UPLOADS = REMOTE_ROOT / "uploads"
"""One folder a project: what `gptops upload` fills. A run gets its own hard-linked copy as `code/`."""
REMOTE_VENVS = REMOTE_ROOT / "venvs"
"""One environment a set of requirements, named by the hash of setup's inputs."""
