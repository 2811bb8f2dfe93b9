"""`ssh`: machines people already have. Opening one only writes it down, ending it only forgets it.

Nobody bills such a machine through us, so `destroy` leaves it running, with
whatever lies in its `gptops/` folder. The books are one small file an instance.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from launcher.crash import crashpoint
from launcher.errors import LocalFault
from launcher.gpu_models import is_one_of
from launcher.providers.base import CreateRequest, Instance, Offer, OffSwitch, Status, Wanted
from launcher.providers.labels import checked_id, id_of
from launcher.providers.static_host import StaticHost
from launcher.remote.host import Address

READY_SECONDS = 30.0
"""A machine that stands somewhere answers, or its owner has to look; a network may hiccup."""


class SshProvider:
    """Keeps its books below `root`; `hosts` are the machines it may offer."""

    def __init__(self, root: Path, hosts: Mapping[str, StaticHost]) -> None:
        self._root = root
        self._hosts = hosts

    @property
    def name(self) -> str:
        """The word in jobs.yaml."""
        return "ssh"

    @property
    def off_switch(self) -> OffSwitch:
        """Nobody bills it, and it is not ours to end."""
        return OffSwitch.NONE

    def console_url(self, instance_id: str) -> str:
        """There is no such page."""
        return ""

    def offers(self, wanted: Wanted) -> list[Offer]:
        """The machines that have, by what is written about them, enough of the right GPUs."""
        return [self._offer(name, host, wanted) for name, host in self._hosts.items() if _fits(host, wanted)]

    def create(self, offer: Offer, request: CreateRequest) -> Instance:
        """Write the machine down. That the key is authorised there is its owner's part."""
        host = self._hosts[offer.offer_id]
        book = {
            "label": request.label,
            "host": host.address.host,
            "port": host.address.port,
            "user": host.address.user,
            "identity_file": _identity(host),
        }
        instance_id = id_of(request.label)
        path = self._book(instance_id)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = path.with_suffix(".writing")
            fresh.write_text(json.dumps(book))
            os.replace(fresh, path)
        except OSError as error:
            raise LocalFault(
                f"could not write {path}", why=str(error), hint="set GPTOPS_HOME to a folder you may write"
            ) from error
        crashpoint("ssh:written")
        return _instance(path)

    def authorize(self, instance_id: str, public_key: str) -> None:
        """Its owner lets keys in."""

    def get(self, instance_id: str) -> Instance | None:
        """The machine as it was written down."""
        path = self._book(instance_id)
        return _instance(path) if path.exists() else None

    def labelled(self, prefix: str) -> list[Instance]:
        """All machines written down under such a label."""
        found = [_instance(path) for path in sorted(self._root.glob("*.json"))]
        return [instance for instance in found if instance.label.startswith(prefix)]

    def destroy(self, instance_id: str) -> None:
        """Forget the machine; it is its owner's and goes on."""
        self._book(instance_id).unlink(missing_ok=True)

    def _offer(self, name: str, host: StaticHost, wanted: Wanted) -> Offer:
        gpus = wanted.gpus if host.gpus is None else host.gpus
        return Offer(
            self.name, name, f"{name} ({host.address})", gpus, host.gpu_name, 0.0, ready_within_seconds=READY_SECONDS
        )

    def _book(self, instance_id: str) -> Path:
        return self._root / f"{checked_id(instance_id)}.json"


def _fits(host: StaticHost, wanted: Wanted) -> bool:
    enough = host.gpus is None or host.gpus >= wanted.gpus
    return enough and (not host.gpu_name or is_one_of(host.gpu_name, wanted.gpu_names))


def _identity(host: StaticHost) -> str | None:
    if host.identity_file is None:
        return None
    path = Path(host.identity_file).expanduser().absolute()
    if not path.is_file():
        raise LocalFault(
            f"there is no key {path}",
            why="it is the identity_file of this host",
            hint="correct `identity_file` under `hosts` in jobs.yaml",
        )
    return str(path)


def _instance(path: Path) -> Instance:
    try:
        book = json.loads(path.read_text())
        address = Address(book["host"], int(book["port"]), book["user"])
        return Instance(
            instance_id=path.stem,
            label=book["label"],
            status=Status.RUNNING,
            addresses=(address,),
            price_per_hour=0.0,
            identity_file=book["identity_file"],
            detail="a machine of yours",
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LocalFault(f"{path} is damaged", why=str(error), hint=f"rm {path}, then gptops up again") from error
