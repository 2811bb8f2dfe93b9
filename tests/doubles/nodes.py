"""Several machines on one network, as a group of hosts has them: network namespaces with a real sshd in each.

    with Nodes(folder, 2, [public_key]) as nodes:
        nodes[0].address               # root@198.18.0.1:22, from the tests too; the nodes reach each other there
        nodes[0].home                  # where its commands start, seen from here
        nodes[0].call("ip", "-br", "addr")     # on the node, without SSH
        nodes.cut(1); nodes.heal(1)    # its cable: nobody hears of it, it hears of nobody, its processes go on
        nodes.kill(1); nodes.restart(1)        # power cut: its processes are gone without a word; its disk stays

Each node has a home (at the same path), processes, a boot id, an interface, and a hostname that no name server knows.
The namespaces have no names and belong to processes, each of which dies with the one that started it: whoever makes
Nodes may be killed in any way, and nothing stays behind. Needs root and Linux; `reason_to_skip` says.
"""

from __future__ import annotations

import fcntl
import functools
import ipaddress
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from launcher.providers import local_sshd
from launcher.remote.host import Address
from launcher.remote.keys import make_key_pair

DOUBLES = Path(__file__).parent
TOOLS = ("sshd", "ssh", "rsync", "unshare", "nsenter", "setpriv", "ip")
NETWORK = "198.18"
"""RFC 2544 keeps 198.18.0.0/15 for tests of network devices: no real machine is there."""
NETWORK_V6 = "fd67:7074:6f70"
"""A prefix of RFC 4193, drawn once: nobody's but ours."""
HERE = 254
"""The last byte of our own address on the network."""
START_SECONDS = 60.0
"""For a machine that is very busy; it takes some hundredths of a second."""
_PRIVATE = ("setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "--ipc", "--pid")
_TRIAL = "ip link add b0 type bridge && ip link add v0 type veth peer name v1 && mount -t tmpfs none /proc/self/fdinfo"


@functools.cache
def reason_to_skip() -> str:
    """Why such nodes cannot be made here; "" where they can."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *local_sshd.SBIN])
    missing = [name for name in TOOLS if shutil.which(name, path=path) is None]
    if missing:
        return f"not installed here: {', '.join(missing)}"
    trial = [*_PRIVATE, "--fork", "--kill-child", "--mount-proc", "sh", "-c", _TRIAL]
    tried = subprocess.run(trial, capture_output=True, text=True)
    complaint = (tried.stderr.strip().splitlines() or [f"code {tried.returncode}"])[0]
    return "" if tried.returncode == 0 else f"network namespaces are refused here: {complaint}"


class Node:
    """One machine. It is off until `boot`."""

    def __init__(self, folder: Path, number: int, shared_home: Path, address: str, keys: Sequence[str]) -> None:
        self.number = number
        self.name = f"node{number}"
        self.folder = folder
        self.address = Address(address, 22, "root")
        self.interface = "lan0"
        last = ipaddress.ip_address(address).packed[-4:]
        self.hardware_address = ":".join(["02", "00", *(f"{byte:02x}" for byte in last)])
        """The same after a restart, so that nobody asks for it in vain."""
        self.process: subprocess.Popen[bytes] | None = None
        self.home_there = shared_home
        """Where its commands start, as it is seen on the node."""
        self.home.mkdir(parents=True)
        make_key_pair(folder / "host_key", comment=self.name)
        (folder / "authorized_keys").write_text("".join(f"{key}\n" for key in keys))
        (folder / "session.sh").write_text(self._session())
        (folder / "sshd_config").write_text(self._sshd_config())
        (folder / "boot.sh").write_text(self._boot_script())

    @property
    def home(self) -> Path:
        """Where its commands start, as it is seen from here."""
        return self.folder / "home"

    @property
    def host_key(self) -> str:
        """As `pin` takes it."""
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    @property
    def is_up(self) -> bool:
        """Whether it has power."""
        return self.process is not None

    def call(self, *argv: str) -> str:
        """Run a command on it without SSH; its output. Raises where it fails."""
        return subprocess.run(self.inside(*argv), check=True, capture_output=True, text=True).stdout

    def processes(self) -> list[str]:
        """The command lines of what runs on it, sshd's own and this question apart."""
        lines = self.call("ps", "-A", "-o", "args=").splitlines()
        return [line for line in lines if not line.startswith(("sshd", "/usr/sbin/sshd", "ps -A"))]

    def export(self, name: str, value: str) -> None:
        """Let every later command find this variable, as if the image had set it."""
        script = self.folder / "session.sh"
        script.write_text(script.read_text().replace('cd "$HOME"', f'export {name}={shlex.quote(value)}\ncd "$HOME"'))

    def hold(self, words: str) -> None:
        """Let commands with these words in them never come to anything, as on a machine that is too busy to begin."""
        script = self.folder / "session.sh"
        held = f'case "${{SSH_ORIGINAL_COMMAND-}}" in *{shlex.quote(words)}*) exec sleep infinity ;; esac'
        script.write_text(script.read_text().replace('cd "$HOME"', f'{held}\ncd "$HOME"'))

    def release(self) -> None:
        """Take every command again; those that were held are lost."""
        script = self.folder / "session.sh"
        lines = script.read_text().splitlines(keepends=True)
        script.write_text("".join(line for line in lines if not line.endswith("exec sleep infinity ;; esac\n")))
        subprocess.run(self.inside("pkill", "-f", "^sleep infinity$"), capture_output=True)

    def set_gpus(self, gpus: Sequence[str], *, driver: str = "580.65.06") -> None:
        """What its nvidia-smi shows."""
        rows = [{"name": name, "driver_version": driver, "memory.total": 81559} for name in gpus]
        (self.home / "fake_gpus.json").write_text(json.dumps(rows))

    def boot(self) -> None:
        """Give it power; without a cable yet."""
        (self.folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
        # --kill-child: unshare passes no signal on but its own death.
        argv = [*_PRIVATE, "--fork", "--kill-child", "--mount-proc", "sh", str(self.folder / "boot.sh")]
        with (self.folder / "boot.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def await_sshd(self) -> None:
        """Until it listens."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            said = (self.folder / "boot.log").read_text(errors="replace")
            if "Server listening on" in said.rpartition("boot ")[2]:
                return
            if self.process is None or self.process.poll() is not None:
                break
            time.sleep(0.005)
        raise AssertionError(f"{self.name} does not start: {said}")

    def end(self) -> None:
        """Take its power; every process on it is killed by the kernel before this returns."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def inside(self, *argv: str) -> list[str]:
        """What runs a command on it when it is typed here."""
        return [*self._inside(), *argv]

    def _inside(self) -> list[str]:
        assert self.process is not None, f"{self.name} has no power"
        first = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0]
        return ["nsenter", "--target", first, "--net", "--mount", "--uts", "--ipc", "--pid"]

    def _session(self) -> str:
        """What every connection runs, as for a local host (launcher.providers.local_sshd)."""
        variables = {key: value for key, value in sorted(os.environ.items()) if local_sshd.IMAGE_VARIABLES.match(key)}
        folders = [str(DOUBLES), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        variables |= {"PATH": os.pathsep.join(folders), "TMPDIR": str(self.home_there / ".tmp")}
        exports = "\n".join(f"export {key}={shlex.quote(value)}" for key, value in variables.items())
        command = 'if [ -n "${SSH_ORIGINAL_COMMAND-}" ]; then exec /bin/sh -c -- "$SSH_ORIGINAL_COMMAND"; fi'
        return f'{exports}\nmkdir -p "$TMPDIR"\ncd "$HOME" || exit 1\n{command}\nexec /bin/sh\n'

    def _sshd_config(self) -> str:
        return f"""\
Port 22
AddressFamily {"inet6" if ":" in self.address.host else "any"}
HostKey {self.folder}/host_key
AuthorizedKeysFile {self.folder}/authorized_keys
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PrintMotd no
PrintLastLog no
MaxStartups 100
MaxSessions 100
ForceCommand exec /bin/sh {self.folder}/session.sh
"""

    def _boot_script(self) -> str:
        """Its home lies at the same path on every node, and is root's by its own passwd; both in its mounts alone."""
        where = shlex.quote(str(self.folder))
        return f"""\
set -e
echo "boot $(cat {where}/boot_id)"
hostname {self.name}
sed "s|^root:.*|root:x:0:0:root:{self.home_there}:/bin/sh|" /etc/passwd >{where}/passwd
sed "s|^root:[^:]*|root:*|" /etc/shadow >{where}/shadow
mount --bind {where}/passwd /etc/passwd
mount --bind {where}/shadow /etc/shadow
mount --bind {where}/boot_id /proc/sys/kernel/random/boot_id
mount --bind {where}/home {self.home_there}
mkdir -p /run/sshd
ip link set lo up
exec {local_sshd.sshd_binary()} -D -e -f {where}/sshd_config
"""


class Nodes:
    """All machines of one network, in one folder. With `v6` they have no IPv4 there."""

    def __init__(self, folder: Path, count: int, keys: Sequence[str] = (), *, v6: bool = False) -> None:
        shared_home = folder / "home"
        shared_home.mkdir(parents=True)
        self._start_switch()
        first = f"{NETWORK_V6}:{self._subnet + 1:x}::" if v6 else f"{NETWORK}.{self._subnet}."
        self.all = [Node(folder / f"node{k}", k, shared_home, f"{first}{k + 1}", keys) for k in range(count)]
        for node in self.all:
            self._power_on(node)
        for node in self.all:
            node.await_sshd()

    def __getitem__(self, number: int) -> Node:
        return self.all[number]

    def __len__(self) -> int:
        return len(self.all)

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def cut(self, number: int) -> None:
        """Pull its cable out: frames are lost both ways, and nobody is told."""
        self._on_switch(f"link set port{number} down")

    def heal(self, number: int) -> None:
        """Plug it in again."""
        self._on_switch(f"link set port{number} up")

    def kill(self, number: int) -> None:
        """A power cut. The cable goes first: a machine without power says no goodbye on its connections."""
        self.cut(number)
        self.all[number].end()

    def join(self, number: int, switch: str, address: str, *, interface: str = "eth0") -> None:
        """Another cable, until its next power cut: into the switch of that name, which nobody else's leads to."""
        node, port = self.all[number], f"{switch}-{number}"
        assert node.process is not None
        self._on_switch(f"link add {switch} type bridge stp_state 0", must=False)  # it may be there already
        self._on_switch(f"link set {switch} up")
        self._on_switch(f"link del {port}", must=False)
        _run(
            f"nsenter --target {self._switch.pid} --net ip link add {port} type veth "
            f"peer name {interface} netns {node.process.pid}"
        )
        self._on_switch(f"link set {port} master {switch} up")
        inside = f"nsenter --target {node.process.pid} --net ip"
        _run(f"{inside} addr add {address} dev {interface}")
        _run(f"{inside} link set {interface} up")

    def restart(self, number: int) -> None:
        """Power again: the same disk, host key and address, another boot."""
        self.all[number].end()
        self._power_on(self.all[number])
        self.all[number].await_sshd()

    def end(self) -> None:
        """End everything."""
        for node in self.all:
            node.end()
        self._switch.kill()
        self._switch.wait()

    def _start_switch(self) -> None:
        """A namespace with a bridge in it, and a cable from there to us. All of it ends with its process."""
        self._switch = subprocess.Popen([*_PRIVATE, "--fork", "--kill-child", "sleep", "infinity"])
        self._await_namespace(self._switch.pid)
        with (Path(tempfile.gettempdir()) / "gptops-test-network.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes must not take the same addresses
            self._subnet = _free_subnet()
            here = f"gpt{os.getpid()}-{self._subnet}"
            _run(f"ip link add {here} type veth peer name port netns {self._switch.pid}")
            _run(f"ip addr add {NETWORK}.{self._subnet}.{HERE}/24 dev {here}")
            _run(f"ip addr add {NETWORK_V6}:{self._subnet + 1:x}::{HERE:x}/64 dev {here} nodad", must=False)
        _run(f"ip link set {here} up")
        # We hear within a second that nobody has an address any more; else the kernel believes in it for half a minute.
        quickly = "base_reachable 1000 delay_probe 200 retrans 200"
        _run(f"ip ntable change name arp_cache dev {here} {quickly}", must=False)
        # No spanning tree: a port forwards from its first moment.
        for line in ("link add lan type bridge stp_state 0", "link set lan up"):
            self._on_switch(line)
        self._on_switch("link set port master lan up")

    def _power_on(self, node: Node) -> None:
        number = node.number
        node.boot()
        assert node.process is not None
        self._await_namespace(node.process.pid)
        self._on_switch(f"link del port{number}", must=False)  # of the life before
        _run(
            f"nsenter --target {self._switch.pid} --net ip link add port{number} type veth "
            f"peer name {node.interface} address {node.hardware_address} netns {node.process.pid}"
        )
        self._on_switch(f"link set port{number} master lan up")
        inside = f"nsenter --target {node.process.pid} --net ip"
        of_v6 = ":" in node.address.host
        _run(f"{inside} addr add {node.address.host}/{'64 nodad' if of_v6 else '24'} dev {node.interface}")
        _run(f"{inside} link set {node.interface} up")

    def _on_switch(self, command: str, *, must: bool = True) -> None:
        _run(f"nsenter --target {self._switch.pid} --net ip {command}", must=must)

    def _await_namespace(self, pid: int) -> None:
        """Until the process has left our network."""
        ours = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + START_SECONDS
        while os.readlink(f"/proc/{pid}/ns/net") == ours:
            assert time.monotonic() < deadline, "unshare does not start"
            time.sleep(0.002)


def _free_subnet() -> int:
    """The third byte of a /24 that no interface here has."""
    taken = {address["local"] for link in json.loads(_run("ip -j -4 addr")) for address in link.get("addr_info", ())}
    return next(number for number in range(255) if f"{NETWORK}.{number}.{HERE}" not in taken)


def _run(command: str, *, must: bool = True) -> str:
    done = subprocess.run(shlex.split(command), capture_output=True, text=True)
    assert not must or done.returncode == 0, f"{command}: {done.stderr.strip()}"
    return done.stdout
