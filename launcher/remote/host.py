"""A host: what SSH reaches, under which name, with which pinned key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import UsageError


@dataclass(frozen=True)
class Address:
    """One way to reach an sshd. Host and port belong together and are never mixed with another pair's."""

    host: str
    port: int
    user: str

    def __post_init__(self) -> None:
        # These words stand in an ssh_config and on command lines, where a newline or a leading `-` would be an order.
        if not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*", self.user):
            raise UsageError(f"{self.user!r} is no user name")
        if not re.fullmatch(r"[A-Za-z0-9:_][A-Za-z0-9:._%-]*", self.host):
            raise UsageError(f"{self.host!r} is no host name or address")
        if not 1 <= self.port <= 65535:
            raise UsageError(f"{self.port} is no port", why="1 to 65535 are allowed")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}:{self.port}"


def parse_address(text: str) -> Address:
    """`user@name:port`; the user is root and the port 22 where left out. An IPv6 address stands in brackets."""
    found = re.fullmatch(r"(?:([^@]+)@)?(\[[^\[\]]+\]|[^:@]+)(?::(\d{1,5}))?", text)
    if found is None:
        raise UsageError(f"{text!r} is no address", why="expected user@name:port, user@name or name")
    user, host, port = found.groups()
    return Address(host.strip("[]"), int(port or 22), user or "root")


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
