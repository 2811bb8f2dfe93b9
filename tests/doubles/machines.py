"""Rented machines as they are for the doubles of the clouds: real sshd hosts on loopback, with GPUs of paper.

    machines = Machines(folder)
    machine = machines.start([public_key], gpus=["NVIDIA H100 80GB HBM3"] * 8, environment={"CONTAINER_ID": "7"})
    machine.address                  # root@127.0.0.1:40123: whoever runs the tests, which for clouds is root
    machine.authorize(another_key)
    machine.set_gpus("NVIDIA-SMI has failed …")
    machine.cut(); machine.boot()    # power cut: all its processes are killed, its disk stays; boots on another port
    machine.end()                    # processes and disk are gone
    machines.end_all()

Nothing here speaks HTTP or knows a cloud.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from launcher.providers import local_processes, local_sshd
from launcher.remote.host import Address

DOUBLES = Path(__file__).parent
MOST_PORTS = 5
BOOT_SECONDS = 60.0
"""For a machine that is very busy; it takes some hundredths of a second."""
DRIVER = "580.65.06"
"""Runs the CUDA 13.0 of our default image."""
MODELS = {
    "H100 SXM": ("NVIDIA H100 80GB HBM3", 81559),
    "H100 PCIE": ("NVIDIA H100 PCIe", 81559),
    "A100 SXM4": ("NVIDIA A100-SXM4-80GB", 81920),
    "RTX 4090": ("NVIDIA GeForce RTX 4090", 24564),
    "RTX 3090": ("NVIDIA GeForce RTX 3090", 24576),
}
"""A market's word for a model, nvidia-smi's, and its memory in MiB."""


def reason_to_skip() -> str:
    """Why such machines cannot be made here; "" where they can."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *local_sshd.SBIN])
    missing = [name for name in ("sshd", "ssh", "ssh-keygen", "rsync") if shutil.which(name, path=path) is None]
    if missing:
        return f"not installed here: {', '.join(missing)}"
    return "" if os.geteuid() == 0 else "clouds log in as root, and these tests do not run as root"


class Machine:
    """One host. It is off until `boot`."""

    def __init__(self, folder: Path, keys: Sequence[str], environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.is_up = False
        """Whether it has power."""
        self._has_run = False
        folder.mkdir(parents=True)
        local_sshd.furnish(folder, "\n".join(keys))
        session = folder / "session.sh"
        exports = {"PATH": f"{DOUBLES}:", **environment}
        lines = [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
        lines[0] += '"$PATH"'
        session.write_text(session.read_text().replace('cd "$HOME"', "\n".join([*lines, 'cd "$HOME"'])))

    @property
    def home(self) -> Path:
        """Where its commands start."""
        return self.folder / "home"

    @property
    def address(self) -> Address:
        """Where its sshd listens, or listened."""
        port = json.loads((self.folder / "instance.json").read_text())["port"]
        return Address(local_sshd.LOOPBACK, port, "root")

    def authorize(self, public_key: str) -> None:
        """From now on this key may log in."""
        file = self.folder / "authorized_keys"
        if public_key not in file.read_text().splitlines():
            file.write_text(file.read_text().rstrip("\n") + f"\n{public_key}\n")

    def set_gpus(self, gpus: Sequence[str] | str, *, driver: str = DRIVER) -> None:
        """What its nvidia-smi shows: models, or the complaint of a broken driver."""
        memory = dict(MODELS.values())
        rows = [{"name": name, "driver_version": driver, "memory.total": memory.get(name, 24576)} for name in gpus]
        (self.home / "fake_gpus.json").write_text(json.dumps(gpus if isinstance(gpus, str) else rows))

    def join(self, address: str) -> None:
        """A cloud has put it on a private network. All of these share one network, so nothing is to be added."""

    def boot(self) -> Address:
        """Start its sshd, and wait until it listens; with its old host key and disk, after the first time on another
        port."""
        for _ in range(MOST_PORTS):
            if self._has_run:
                self._move_to(_free_port())
            self._has_run = True
            if self._listens():
                self.is_up = True
                return self.address
        raise AssertionError(f"sshd found no free port: {local_sshd.log_file(self.folder).read_text()}")

    def _listens(self) -> bool:
        """Start sshd; False where somebody else has taken its port meanwhile."""
        log = local_sshd.log_file(self.folder)
        said_before = log.stat().st_size if log.exists() else 0
        local_sshd.start_sshd(local_sshd.sshd_binary(), self.folder)
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline:
            said = log.read_bytes()[said_before:].decode(errors="replace") if log.exists() else ""
            if "Server listening on" in said:
                return True
            if "Cannot bind any address" in said:
                return False
            time.sleep(0.005)
        raise AssertionError(f"sshd does not start: {said}")

    def cut(self) -> None:
        """Kill everything that runs on it, at once. The disk stays."""
        self.is_up = False
        ports = [self.address.port]
        survivors = local_processes.end_all(self.folder.name, local_sshd.config_file(self.folder), ports)
        assert not survivors, f"processes of {self.folder} do not end: {survivors}"

    def end(self) -> None:
        """Cut, and forget the disk."""
        if self.folder.exists():
            self.cut()
            shutil.rmtree(self.folder)

    def processes(self) -> list[psutil.Process]:
        """What runs on it now, besides sshd: whatever was started through it."""
        return list(_marked(self.folder.name))

    def _move_to(self, port: int) -> None:
        config = local_sshd.config_file(self.folder)
        config.write_text(re.sub(r"^Port \d+$", f"Port {port}", config.read_text(), flags=re.M))
        (self.folder / "instance.json").write_text(json.dumps({"port": port}))


class Machines:
    """All machines of one double, in one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made = 0
        self.all: list[Machine] = []

    def start(
        self,
        public_keys: Sequence[str],
        *,
        gpus: Sequence[str] | str = (),
        driver: str = DRIVER,
        environment: Mapping[str, str] | None = None,
        booted: bool = True,
    ) -> Machine:
        """A machine that lets these keys in; `booted=False` leaves it off, for later."""
        self._made += 1
        machine = Machine(
            self._root / f"machine-{os.getpid()}-{id(self):x}-{self._made}", public_keys, environment or {}
        )
        machine.set_gpus(gpus, driver=driver)
        self.all.append(machine)
        if booted:
            machine.boot()
        return machine

    def end_all(self) -> None:
        """End every machine that is left."""
        for machine in self.all:
            machine.end()
        self.all.clear()


def _marked(name: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(local_processes.MARK) == name and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((local_sshd.LOOPBACK, 0))
        return int(probe.getsockname()[1])
