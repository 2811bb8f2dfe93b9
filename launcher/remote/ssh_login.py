"""Log in to one address with Fabric, as a known host or not at all.

The pinned key is the only one accepted, our key file the only one offered: no
agent, no ~/.ssh, no configuration of Fabric's or the machine's. What goes wrong is
told in our errors, by what a user can do about it.
"""

from __future__ import annotations

import base64
import logging
import os
from typing import Any

from launcher.errors import GptopsError, HostRefused, LocalFault, LoginRefused, Unreachable
from launcher.remote.host import Address, Host
from launcher.remote.pinning import changed_key, pinned_key, unpinned
from launcher.remote.ssh_config import ALIVE_INTERVAL_SECONDS, CONNECT_TIMEOUT_SECONDS


def logged_in(host: Host, address: Address, patience: float) -> Any:
    """An open fabric.Connection (fabric has no types). Raises HostRefused, Unreachable within `patience` seconds."""
    import paramiko  # late: with fabric 0.15 s, and most verbs never connect

    if not os.access(host.identity_file, os.R_OK):
        raise LocalFault(f"the key {host.identity_file} cannot be read", why="it is the one to log in with there")
    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # it prints tracebacks of its own otherwise
    connection = _prepared(host, address, min(patience, CONNECT_TIMEOUT_SECONDS))
    try:
        connection.open()
    except (paramiko.SSHException, EOFError, OSError) as error:
        connection.close()
        raise _refusal(host, address, error) from error
    connection.transport.set_keepalive(ALIVE_INTERVAL_SECONDS)
    return connection


def _prepared(host: Host, address: Address, patience: float) -> Any:
    import fabric
    import paramiko

    pinned = pinned_key(host)
    if pinned is None:
        raise unpinned(host)
    connection = fabric.Connection(
        address.host,
        user=address.user,
        port=address.port,
        # lazy and no ssh configs: neither ~/.ssh/config nor /etc/invoke.yaml takes part
        config=fabric.Config(overrides={"load_ssh_configs": False}, lazy=True),
        connect_timeout=patience,
        connect_kwargs={
            "key_filename": str(host.identity_file),
            "look_for_keys": False,
            "allow_agent": False,
            "banner_timeout": patience,
            "auth_timeout": patience,
        },
    )
    connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())  # Fabric's own accepts anybody
    kind, blob = pinned.split()[:2]
    try:
        key = paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
    except (ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType) as error:
        raise HostRefused(
            f"the key pinned for `{host.name}` is damaged", why=f"it stands in {host.known_hosts}"
        ) from error
    shown_as = address.host if address.port == 22 else f"[{address.host}]:{address.port}"
    connection.client.get_host_keys().add(shown_as, kind, key)
    return connection


def _refusal(host: Host, address: Address, error: Exception) -> GptopsError:
    import paramiko

    if isinstance(error, paramiko.BadHostKeyException):
        return changed_key(host, seen=f"{error.key.get_name()} {error.key.get_base64()}")
    if isinstance(error, paramiko.PasswordRequiredException):
        return HostRefused(
            f"the key {host.identity_file} needs a passphrase",
            why="gptops works unattended and asks no agent",
            hint="use a key without one, or gptops' own: leave identity_file out, see `gptops doctor`",
        )
    if isinstance(error, paramiko.AuthenticationException):
        return LoginRefused(
            f"{address} refused our key",
            why=f"offered {host.identity_file}; the server said: {error}",
            hint="add the line that `gptops doctor` shows to ~/.ssh/authorized_keys on the host",
        )
    return Unreachable(
        f"could not reach {address}",
        why=str(error) or type(error).__name__,
        hint=f"gptops ps, or try it yourself: nc -v {address.host} {address.port}",
    )
