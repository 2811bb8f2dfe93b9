"""The ssh_config of one host: how OpenSSH, rsync included, reaches it for us.

Everything stands in a file of our own, given with `-F`, so that neither the
user's ~/.ssh nor the machine's ssh_config takes part. Nothing here connects.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from launcher.errors import LocalFault
from launcher.remote.host import Address, Host

CONNECT_TIMEOUT_SECONDS = 15
ALIVE_INTERVAL_SECONDS = 5
ALIVE_COUNT_MAX = 3


def ssh_config(host: Host, address: Address, control_socket: Path) -> str:
    """The file's text. AES-GCM comes first: CPUs have instructions for it (rsync: 249 instead of 152 MB/s)."""
    known_hosts, identity_file, control = (
        _quoted(path) for path in (host.known_hosts, host.identity_file, control_socket)
    )
    return f"""\
# Written by gptops. Open a session of your own: ssh -F THIS_FILE {host.alias}
Host {host.alias}
  HostName {address.host}
  Port {address.port}
  User {address.user}
  HostKeyAlias {host.alias}
  IdentityFile {identity_file}
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {known_hosts}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  PreferredAuthentications publickey
  Ciphers ^aes128-gcm@openssh.com
  BatchMode yes
  ConnectTimeout {CONNECT_TIMEOUT_SECONDS}
  ServerAliveInterval {ALIVE_INTERVAL_SECONDS}
  ServerAliveCountMax {ALIVE_COUNT_MAX}
  ControlMaster auto
  ControlPath {control}
  ControlPersist 60
  ForwardAgent no
  ForwardX11 no
  LogLevel ERROR
"""


def write_ssh_config(host: Host, address: Address, control_sockets: Path) -> Path:
    """Write the host's ssh_config and make the folder of its control socket. Returns the config."""
    path = config_file(host)
    _make_private(control_sockets)
    text = ssh_config(host, address, control_socket(host, control_sockets))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".ssh_config.", delete=False) as fresh:
                fresh.write(text)
            os.replace(fresh.name, path)
    except OSError as error:
        raise LocalFault(
            f"could not write {path}", why=str(error), hint="set GPTOPS_HOME to a folder you may write"
        ) from error
    return path


def config_file(host: Host) -> Path:
    """Where the host's ssh_config lies: beside its pinned key."""
    return host.known_hosts.with_name("ssh_config")


def control_socket(host: Host, control_sockets: Path) -> Path:
    """Short, and different for each host of each state directory."""
    return control_sockets / hashlib.sha256(os.fsencode(config_file(host))).hexdigest()[:16]


def rsync_rsh(config: Path) -> str:
    """The value of rsync's `-e`: it splits at spaces, and knows single quotes doubled inside single quotes."""
    return "ssh -F '" + str(config).replace("'", "''") + "'"


def _make_private(folder: Path) -> None:
    # The folder may lie in /tmp: somebody else's folder of that name would let them answer for our hosts.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise LocalFault(f"{folder} is not yours alone", why="SSH connections are shared there", hint=f"rm -r {folder}")


def _quoted(path: Path) -> str:
    text = str(path)
    if any(sign in text for sign in '"\n\r') or "${" in text:
        raise LocalFault(
            f"OpenSSH cannot take the path {text!r}",
            why='an ssh_config has no way to write ", ${ or a newline in a path',
            hint="set GPTOPS_HOME to a plainer path",
        )
    return '"' + text.replace("\\", "\\\\").replace("%", "%%") + '"'
