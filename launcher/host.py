"""A host: what SSH reaches, under which name, with which pinned key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Address:
    """One way to reach an sshd. Host and port belong together and are never mixed with another pair's."""

    host: str
    port: int
    user: str

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


@dataclass(frozen=True)
class Host:
    """An open host as the transport needs it. Plain data; nothing here connects."""

    name: str
    """What the user types: `local-3f2a`."""
    addresses: tuple[Address, ...]
    """In the order to be tried: direct before proxy."""
    identity_file: Path
    """Private key to log in with."""
    known_hosts: Path
    """gptops' own known_hosts; the pinned key stands there under `alias`."""

    @property
    def alias(self) -> str:
        """HostKeyAlias: the key belongs to this instance, not to an address that may be recycled."""
        return f"gptops-{self.name}"
