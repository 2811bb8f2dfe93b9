"""`local`: a host on this machine, behind a private sshd, treated like a rented one.

Each instance is a folder: its sshd's keys and log, and a home of its own, in
which every command and every rsync starts. This machine's Python is its image:
it stands first in PATH. sshd belongs to nobody's terminal, so it outlives gptops;
what runs on the host is known by a mark in its environment, and `destroy` ends
all of it. There is no other register than the folders.
"""

from __future__ import annotations

import getpass
import json
import shlex
import shutil
import subprocess
from pathlib import Path

from launcher.crash import crashpoint
from launcher.errors import LocalFault, ProviderError
from launcher.gpu_models import is_one_of
from launcher.providers.base import CreateRequest, Instance, Offer, OffSwitch, Status, Wanted
from launcher.providers.labels import checked_id, id_of, label_of
from launcher.providers.local_processes import end_all, sshd_process
from launcher.providers.local_sshd import LOOPBACK, config_file, furnish, last_line, log_file, sshd_binary, start_sshd
from launcher.remote.host import Address
from launcher.remote.keys import public_line

READY_SECONDS = 30.0
"""An sshd on this machine answers in a fraction of a second, or not at all."""


class LocalProvider:
    """Keeps its books below `root`, one folder an instance."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def name(self) -> str:
        """The word in jobs.yaml."""
        return "local"

    @property
    def off_switch(self) -> OffSwitch:
        """Whoever ends all its processes has ended it."""
        return OffSwitch.LOCAL

    def console_url(self, instance_id: str) -> str:
        """There is no such page."""
        return ""

    def offers(self, wanted: Wanted) -> list[Offer]:
        """This machine, if it has the GPUs; nobody bills it."""
        gpus = _gpu_names()
        fitting = [gpu for gpu in gpus if is_one_of(gpu, wanted.gpu_names)]
        free_gib = shutil.disk_usage(_existing(self._root)).free / 2**30
        if len(fitting) < wanted.gpus or free_gib < wanted.disk_gib:
            return []
        gpu_name = fitting[0] if wanted.gpus else ""
        return [
            Offer(
                self.name,
                "this-machine",
                "this machine",
                wanted.gpus,
                gpu_name,
                0.0,
                ready_within_seconds=READY_SECONDS,
            )
        ]

    def create(self, offer: Offer, request: CreateRequest) -> Instance:
        """Make the folder, whose name tells the label, and start its sshd."""
        sshd = sshd_binary()
        folder = self._folder(id_of(request.label))
        try:
            folder.mkdir(mode=0o700, parents=True)
            crashpoint("local:folder")
            furnish(folder, request.public_key)
        except OSError as error:
            raise LocalFault(
                f"could not make the host's folder {folder}",
                why=str(error),
                hint="set GPTOPS_HOME to a folder you may write",
            ) from error
        crashpoint("local:furnished")
        start_sshd(sshd, folder)
        crashpoint("local:started")
        instance = self.get(folder.name)
        assert instance is not None
        return instance

    def authorize(self, instance_id: str, public_key: str) -> None:
        """`create` has let it in."""

    def get(self, instance_id: str) -> Instance | None:
        """The instance as its folder and its sshd are now."""
        folder = self._folder(instance_id)
        if not folder.is_dir():
            return None
        return Instance(
            instance_id=instance_id,
            label=label_of(instance_id),
            status=_status(folder),
            addresses=_addresses(folder),
            price_per_hour=0.0,
            host_key=_host_key(folder),
            detail=last_line(folder),
        )

    def labelled(self, prefix: str) -> list[Instance]:
        """All instances whose label starts with `prefix`."""
        names = sorted(path.name for path in self._root.glob("gptops.*")) if self._root.is_dir() else []
        found = [self.get(name) for name in names if label_of(name).startswith(prefix)]
        return [instance for instance in found if instance is not None]

    def destroy(self, instance_id: str) -> None:
        """End sshd and everything that runs on the host, then remove the folder."""
        folder = self._folder(instance_id)
        survivors = end_all(instance_id, config_file(folder), [address.port for address in _addresses(folder)])
        if survivors:
            raise ProviderError(
                f"processes of {instance_id} do not end",
                why=f"still there after SIGKILL: {', '.join(map(str, survivors))}",
                hint=f"ps -o pid,stat,args -p {','.join(map(str, survivors))}",
            )
        crashpoint("local:ended")
        try:
            if folder.exists():
                shutil.rmtree(folder)
        except OSError as error:
            raise ProviderError(
                f"the folder of {instance_id} could not be removed",
                why=str(error),
                hint=f"rm -r {shlex.quote(str(folder))}",
            ) from error

    def _folder(self, instance_id: str) -> Path:
        return self._root / checked_id(instance_id)


def _status(folder: Path) -> Status:
    if not log_file(folder).exists():  # the first thing sshd makes
        return Status.STARTING
    return Status.RUNNING if sshd_process(config_file(folder)) else Status.STOPPED


def _addresses(folder: Path) -> tuple[Address, ...]:
    """Where sshd was told to listen; nothing for a folder that was left half furnished."""
    try:
        port = int(json.loads((folder / "instance.json").read_text())["port"])
    except (OSError, ValueError, KeyError):
        return ()
    return (Address(LOOPBACK, port, getpass.getuser()),)


def _host_key(folder: Path) -> str | None:
    try:
        return " ".join(public_line(folder / "host_key").split()[:2])
    except OSError:
        return None


def _gpu_names() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    asked = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    return asked.stdout.splitlines() if asked.returncode == 0 else []


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
