"""The private sshd of a local host: its files, its configuration, its start.

It listens on loopback, knows one login key, and lets every session begin in the
host's own home with this machine's Python first in PATH. Who it serves, and how it
ends, is not its business.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from launcher.errors import LocalFault
from launcher.providers.local_processes import LISTENER_MARK, MARK
from launcher.remote.keys import make_key_pair

LOOPBACK = "127.0.0.1"
SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin", "/opt/homebrew/sbin", "/opt/homebrew/bin")
"""sshd lies outside many users' PATH."""
IMAGE_VARIABLES = re.compile(
    r"(PIP_|UV_|SSL_CERT_|REQUESTS_CA_BUNDLE|HF_ENDPOINT|LANG|LC_|TZ$|(https?|no|all)_proxy$)", re.I
)
"""What of this machine's environment belongs to the "image": where packages come from, and the language."""


def config_file(folder: Path) -> Path:
    """sshd's configuration; its path is how the process is known."""
    return folder / "sshd_config"


def log_file(folder: Path) -> Path:
    """The first thing a started sshd makes."""
    return folder / "sshd.log"


def last_line(folder: Path) -> str:
    """What sshd said last."""
    if not log_file(folder).exists():
        return ""
    return (log_file(folder).read_text(errors="replace").strip().splitlines() or [""])[-1]


def furnish(folder: Path, public_key: str) -> None:
    """Everything sshd needs, before it starts; instance.json, with its port, comes last."""
    port = _free_port()
    (folder / "home").mkdir(mode=0o700)
    make_key_pair(folder / "host_key", comment="gptops-local")
    _write_private(folder / "authorized_keys", public_key + "\n")
    _write_private(folder / "session.sh", _session_script(folder))
    _write_private(config_file(folder), _sshd_config(folder, port))
    _write_private(folder / "instance.json", json.dumps({"port": port}))


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _session_script(folder: Path) -> str:
    """What every connection runs: the host's own home, PATH and mark, then what the client asked for."""
    home = str(folder / "home")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    variables = {key: value for key, value in sorted(os.environ.items()) if IMAGE_VARIABLES.match(key)}
    variables |= {"HOME": home, "PATH": path, MARK: folder.name}
    exports = "\n".join(f"export {key}={shlex.quote(value)}" for key, value in variables.items())
    return f"""\
# Run by sshd for every connection to this host.
{exports}
cd "$HOME" || exit 1
if [ -n "${{SSH_ORIGINAL_COMMAND-}}" ]; then exec /bin/sh -c -- "$SSH_ORIGINAL_COMMAND"; fi
exec "${{SHELL:-/bin/sh}}"
"""


def _sshd_config(folder: Path, port: int) -> str:
    session = f"exec /bin/sh {shlex.quote(str(folder / 'session.sh'))}"
    return f"""\
ListenAddress {LOOPBACK}
Port {port}
HostKey {_quoted(folder / "host_key")}
AuthorizedKeysFile {_quoted(folder / "authorized_keys", tokens=True)}
PidFile none
AllowUsers {getpass.getuser()}
AuthenticationMethods publickey
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM {"yes" if _root_is_locked() else "no"}
StrictModes no
PermitUserRC no
PrintMotd no
PrintLastLog no
X11Forwarding no
AllowAgentForwarding no
AllowTcpForwarding no
ClientAliveInterval 15
MaxStartups 100
MaxSessions 100
LogLevel INFO
SetEnv {_quoted_pair("HOME", folder / "home")}
ForceCommand {session}
"""


def _quoted(path: Path, *, tokens: bool = False) -> str:
    text = str(path).replace("\\", "\\\\").replace("%", "%%" if tokens else "%")
    if any(sign in text for sign in '"\n\r'):
        raise LocalFault(f"sshd cannot take the path {text!r}", hint="set GPTOPS_HOME to a plainer path")
    return f'"{text}"'


def _quoted_pair(name: str, path: Path) -> str:
    return f'"{name}={_quoted(path)[1:]}'


def _root_is_locked() -> bool:
    """Without PAM, sshd refuses an account whose password is locked with `!`, as root's is on Ubuntu."""
    if os.geteuid() != 0 or not Path("/etc/pam.d/sshd").exists():
        return False
    try:
        lines = Path("/etc/shadow").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("root:!") for line in lines)


def sshd_binary() -> str:
    """Where sshd is. Raises LocalFault where it is nowhere."""
    found = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), *SBIN]))
    if found is None:
        raise LocalFault(
            "sshd is not installed here",
            why="the provider `local` is a private OpenSSH server",
            hint="apt-get install openssh-server   (macOS brings /usr/sbin/sshd; Fedora: dnf install openssh-server)",
        )
    return str(Path(found).absolute())  # sshd insists on an absolute path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def start_sshd(sshd: str, folder: Path) -> None:
    """Start it, in nobody's session. It is ready when it answers."""
    _check(sshd, folder)
    # In the background of a shell that ends at once: nobody's child, in nobody's session.
    argv = [sshd, "-D", "-f", str(config_file(folder)), "-E", str(log_file(folder))]
    background = ["/bin/sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh", *argv]
    environment = {**os.environ, LISTENER_MARK: folder.name}
    subprocess.run(background, start_new_session=True, cwd="/", check=True, env=environment)


def _check(sshd: str, folder: Path) -> None:
    argv = [sshd, "-t", "-f", str(config_file(folder))]
    tested = subprocess.run(argv, capture_output=True, text=True)
    missing = re.search(r"[Mm]issing privilege separation directory: (\S+)", tested.stderr)
    if missing and os.geteuid() == 0:  # a container in which no service has ever started
        Path(missing[1]).mkdir(mode=0o755, parents=True, exist_ok=True)
        tested = subprocess.run(argv, capture_output=True, text=True)
    if tested.returncode != 0:
        raise LocalFault("sshd does not take its configuration", why=tested.stderr.strip(), hint=shlex.join(argv))
