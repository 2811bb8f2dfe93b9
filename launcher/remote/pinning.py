"""The pinned key of each host, in a known_hosts of gptops' own.

A key is pinned under the host's alias, not under an address: addresses are
recycled by clouds, hosts are not. It comes from the provider where that can tell
it, else from the first contact. After that nothing here ever replaces it.
"""

from __future__ import annotations

import os
import socket

from launcher.errors import HostRefused, Unreachable
from launcher.remote.host import Address, Host
from launcher.remote.keys import fingerprint


def pinned_key(host: Host) -> str | None:
    """The host's key, `ssh-ed25519 AAAA…`; None before the first contact."""
    if not host.known_hosts.exists():
        return None
    for line in host.known_hosts.read_text().splitlines():
        alias, _, key = line.partition(" ")
        if alias == host.alias:
            return key
    return None


def pin(host: Host, key_line: str) -> None:
    """Remember the host's key. The same again is fine; another one is refused."""
    known, key = pinned_key(host), " ".join(key_line.split()[:2])
    if known == key:
        return
    if known is not None:
        raise changed_key(host, seen=key)
    host.known_hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = host.known_hosts.with_name(f".known_hosts.{os.getpid()}")
    fresh.write_text(f"{host.alias} {key}\n")
    os.replace(fresh, host.known_hosts)


def changed_key(host: Host, *, seen: str) -> HostRefused:
    """The error for a host that shows another key than the pinned one."""
    known = pinned_key(host)
    return HostRefused(
        f"the host key of `{host.name}` has changed: this is another machine, or somebody listens in between",
        why=f"pinned: {fingerprint(known) if known else 'none'}; shown now: {fingerprint(seen)}",
        hint=f"do not connect; if you reinstalled it: gptops down {host.name} --discard, then open it again",
    )


def unpinned(host: Host) -> HostRefused:
    """The error for a host whose key nobody has pinned yet."""
    return HostRefused(
        f"no host key is pinned for `{host.name}`",
        why="only `gptops up` makes the first contact; this one was interrupted before it",
        hint=f"gptops down {host.name}, then gptops up again",
    )


def shown_key(address: Address, *, timeout_seconds: float) -> str:
    """The key a server shows, without logging in. For the first contact."""
    import paramiko  # late: costs 0.13 s, and `gptops ps` never connects

    try:
        with socket.create_connection((address.host, address.port), timeout=timeout_seconds) as connection:
            transport = paramiko.Transport(connection)
            try:
                transport.start_client(timeout=timeout_seconds)
                key = transport.get_remote_server_key()
            finally:
                transport.close()
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise Unreachable(f"could not reach {address}", why=str(error) or type(error).__name__) from error
    return f"{key.get_name()} {key.get_base64()}"
