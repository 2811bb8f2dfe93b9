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
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from launcher.crash import crashpoint
from launcher.errors import LocalFault, ProviderError
from launcher.host import Address
from launcher.keys import make_key_pair, public_line
from launcher.providers.base import CreateRequest, Instance, Offer, Status, Wanted
from launcher.providers.local_processes import MARK, end_all, sshd_process

LOOPBACK = "127.0.0.1"
SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin", "/opt/homebrew/sbin", "/opt/homebrew/bin")
"""sshd lies outside many users' PATH."""
IMAGE_VARIABLES = re.compile(
    r"(PIP_|UV_|SSL_CERT_|REQUESTS_CA_BUNDLE|HF_ENDPOINT|LANG|LC_|TZ$|(https?|no|all)_proxy$)", re.I
)
"""What of this machine's environment belongs to the "image": where packages come from, and the language."""


class LocalProvider:
    """Keeps its books below `root`, one folder an instance."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def name(self) -> str:
        """The word in jobs.yaml."""
        return "local"

    def offers(self, wanted: Wanted) -> list[Offer]:
        """This machine, if it has the GPUs; nobody bills it."""
        gpus = _gpu_names()
        fitting = [
            gpu for gpu in gpus if not wanted.gpu_names or any(name.lower() in gpu.lower() for name in wanted.gpu_names)
        ]
        free_gib = shutil.disk_usage(_existing(self._root)).free / 2**30
        if len(fitting) < wanted.gpus or free_gib < wanted.disk_gib:
            return []
        gpu_name = fitting[0] if wanted.gpus else ""
        return [Offer(self.name, "this-machine", "this machine", wanted.gpus, gpu_name, 0.0)]

    def create(self, offer: Offer, request: CreateRequest) -> Instance:
        """Make the folder, whose name tells the label, and start its sshd."""
        sshd = _sshd_binary()
        folder = self._folder(_id_of(request.label))
        try:
            folder.mkdir(mode=0o700, parents=True)
            crashpoint("local:folder")
            _furnish(folder, request.public_key, _free_port())
        except OSError as error:
            raise LocalFault(
                f"could not make the host's folder {folder}",
                why=str(error),
                hint="set GPTOPS_HOME to a folder you may write",
            ) from error
        crashpoint("local:furnished")
        _start(sshd, folder)
        crashpoint("local:started")
        instance = self.get(folder.name)
        assert instance is not None
        return instance

    def get(self, instance_id: str) -> Instance | None:
        """The instance as its folder and its sshd are now."""
        folder = self._folder(instance_id)
        if not folder.is_dir():
            return None
        return Instance(
            instance_id=instance_id,
            label=_label_of(instance_id),
            status=_status(folder),
            addresses=_addresses(folder),
            price_per_hour=0.0,
            host_key=_host_key(folder),
            detail=_last_line(folder / "sshd.log"),
        )

    def labelled(self, prefix: str) -> list[Instance]:
        """All instances whose label starts with `prefix`."""
        names = sorted(path.name for path in self._root.glob("gptops.*")) if self._root.is_dir() else []
        found = [self.get(name) for name in names if _label_of(name).startswith(prefix)]
        return [instance for instance in found if instance is not None]

    def destroy(self, instance_id: str) -> None:
        """End sshd and everything that runs on the host, then remove the folder."""
        folder = self._folder(instance_id)
        survivors = end_all(instance_id, _config(folder), [address.port for address in _addresses(folder)])
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
        if not re.fullmatch(r"gptops\.[A-Za-z0-9._-]+", instance_id):
            raise ProviderError(f"{instance_id!r} is no id of a local host", hint="gptops ps")
        return self._root / instance_id


# A folder's name tells its label, so an instance is known from its first moment on. No colon: it would break PATH.


def _id_of(label: str) -> str:
    if not re.fullmatch(r"gptops:[A-Za-z0-9._-]+:[A-Za-z0-9-]+", label):
        raise ProviderError(f"{label!r} is no label", why="expected gptops:<project>:<uuid>")
    return label.replace(":", ".")


def _label_of(instance_id: str) -> str:
    project, _, unique = instance_id.removeprefix("gptops.").rpartition(".")
    return f"gptops:{project}:{unique}"


def _config(folder: Path) -> Path:
    return folder / "sshd_config"


def _status(folder: Path) -> Status:
    if not (folder / "sshd.log").exists():  # the first thing sshd makes
        return Status.STARTING
    return Status.RUNNING if sshd_process(_config(folder)) else Status.STOPPED


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


def _furnish(folder: Path, public_key: str, port: int) -> None:
    """Everything sshd needs, before it starts."""
    (folder / "home").mkdir(mode=0o700)
    make_key_pair(folder / "host_key", comment="gptops-local")
    _write_private(folder / "authorized_keys", public_key + "\n")
    _write_private(folder / "session.sh", _session_script(folder))
    _write_private(_config(folder), _sshd_config(folder, port))
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


def _sshd_binary() -> str:
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


def _start(sshd: str, folder: Path) -> None:
    _check(sshd, folder)
    # In the background of a shell that ends at once: nobody's child, in nobody's session.
    argv = [sshd, "-D", "-f", str(_config(folder)), "-E", str(folder / "sshd.log")]
    background = ["/bin/sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh", *argv]
    subprocess.run(background, start_new_session=True, cwd="/", check=True)


def _check(sshd: str, folder: Path) -> None:
    argv = [sshd, "-t", "-f", str(_config(folder))]
    tested = subprocess.run(argv, capture_output=True, text=True)
    missing = re.search(r"[Mm]issing privilege separation directory: (\S+)", tested.stderr)
    if missing and os.geteuid() == 0:  # a container in which no service has ever started
        Path(missing[1]).mkdir(mode=0o755, parents=True, exist_ok=True)
        tested = subprocess.run(argv, capture_output=True, text=True)
    if tested.returncode != 0:
        raise LocalFault("sshd does not take its configuration", why=tested.stderr.strip(), hint=shlex.join(argv))


def _gpu_names() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    asked = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    return asked.stdout.splitlines() if asked.returncode == 0 else []


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _last_line(log: Path) -> str:
    if not log.exists():
        return ""
    return (log.read_text(errors="replace").strip().splitlines() or [""])[-1]
