"""Checkpoints on a test's host, and a sync of them: what the tests of sync share."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from launcher.books.ledger import InstanceState, Ledger, RunRow, RunState
from launcher.checkpoints.pull import Pulled, Puller
from launcher.checkpoints.remote_checkpoints import Listing, list_remote
from launcher.checkpoints.sync import Policy, Sync, SyncPass, sync_once
from launcher.clock import SystemClock
from launcher.lock import hold
from launcher.paths import LocalRun, RemoteRun
from launcher.remote.transport import Transport
from tests.launcher.conftest import SshHost
from trainer import manifest

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
FILES = {
    "model.safetensors": os.urandom(200_000),
    "optimizer.safetensors": os.urandom(400_000),
    "train_state.json": b"{}",
}


def write_checkpoint(folder: Path, step: int, files: Mapping[str, bytes] = FILES) -> Path:
    """A whole checkpoint, published as the trainer does it."""
    building = folder / f"{manifest.step_name(step)}.tmp"
    for name, content in files.items():
        path = building / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return manifest.publish(building)


def register(host: SshHost, ledger: Ledger, *, gpus: int = 0, gpu_name: str = "") -> None:
    """The host in the ledger, as `gptops up` leaves it."""
    label, name = host.instance.label, host.host.name
    if label not in {row.label for row in ledger.instances()}:
        ledger.intend_instance(
            label=label, name=name, provider="local", project="tests", price_per_hour=0.0, gpus=gpus, gpu_name=gpu_name
        )
        ledger.mark_instance(label, InstanceState.OPEN, instance_id=host.instance.instance_id)


def silent(_description: str, _total: float) -> AbstractContextManager[Callable[[float], None]]:
    """A progress bar that nobody sees."""
    return nullcontext(lambda _done: None)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@dataclass
class Scene:
    """One run: its folder on the host as this machine sees it, its home, its ledger."""

    host: SshHost
    transport: Transport
    home: LocalRun
    ledger: Ledger
    run_id: str = field(default_factory=lambda: f"run-{uuid.uuid4().hex[:8]}")
    announced: list[Pulled] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger.add_run(
            RunRow(
                run_id=self.run_id, job="demo", host_name=self.host.host.name, instance_label=self.host.instance.label,
                project_root="", local_root=str(self.home.root), created_at=0.0, state=RunState.RUNNING, exit_code=None,
                delete_remote=True, keep_remote=2,
            )
        )  # fmt: skip

    @property
    def remote(self) -> RemoteRun:
        return RemoteRun(self.run_id)

    @property
    def there(self) -> Path:
        """The host's checkpoints folder."""
        return self.host.home / self.remote.checkpoints

    @property
    def here(self) -> Path:
        return self.home.checkpoints

    def publish(self, *steps: int, files: Mapping[str, bytes] = FILES) -> None:
        """The trainer saves."""
        for step in steps:
            write_checkpoint(self.there, step, files)

    def listing(self) -> Listing:
        return list_remote(self.transport, self.remote.checkpoints)

    @contextmanager
    def opened(self, policy: Policy | None = None) -> Iterator[Sync]:
        clock = SystemClock()
        with hold(self.home.root.with_suffix(".lock"), "a test", clock) as lock:
            puller = Puller(self.transport, self.remote.checkpoints, self.home, clock, silent, lock)
            yield Sync(self.run_id, puller, self.ledger, policy or Policy(), self.announced.append)

    def sync(self, *, has_ended: bool = False, policy: Policy | None = None) -> SyncPass:
        with self.opened(policy) as sync:
            return sync_once(sync, has_ended=has_ended)

    def steps_here(self) -> list[str]:
        return sorted(path.name for path in self.here.iterdir()) if self.here.exists() else []

    def steps_there(self) -> list[str]:
        return sorted(path.name for path in self.there.iterdir()) if self.there.exists() else []


def training(host: SshHost, run_id: str, program: str) -> None:
    """A real run on the host, under the real run.sh, that trains by the Python text `program`."""
    folder = host.home / RemoteRun(run_id).root
    (folder / "code").mkdir(parents=True, exist_ok=True)
    (folder / "code" / "train.py").write_text(program)
    shutil.copy(TEMPLATES / "run.sh", folder / "run.sh")
    settings = {"GPTOPS_RUN_ID": run_id, "GPTOPS_STARTER": "", "GPTOPS_COMMAND": f"{sys.executable} -u train.py"}
    settings |= {"GPTOPS_EXPECTED_PROCESSES": "1", "GPTOPS_VENV": "", "PYTHONPATH": str(TEMPLATES.parent)}
    (folder / "run.env").write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()))


def ended(host: SshHost, run_id: str, exit_code: int = 0) -> None:
    """A run that has ended, as run.sh leaves it."""
    training(host, run_id, "")
    status = host.home / RemoteRun(run_id).status
    status.mkdir(exist_ok=True)
    (status / "attempt.1").mkdir()
    for fact, value in {"attempt": 1, "phase": "ended", "exit_code": exit_code}.items():
        (status / fact).write_text(f"{value}\n")


def only_these_programs(host: SshHost, folder: Path, *programs: str) -> None:
    """From the next connection on, the host has nothing else on its PATH."""
    folder.mkdir()
    for name in programs:
        (folder / name).symlink_to(sys.executable if name == "python3" else str(shutil.which(name)))
    script = host.folder / "session.sh"
    script.write_text(script.read_text().replace("\ncd ", f"\nexport PATH={shlex.quote(str(folder))}\ncd ", 1))


def names(*steps: int) -> list[str]:
    return [manifest.step_name(step) for step in steps]
