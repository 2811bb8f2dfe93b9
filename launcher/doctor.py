"""What gptops needs on this machine, looked at one by one, each with what to do about it.

It asks the programs themselves and changes nothing but the one thing every
verb would make anyway: gptops' own login key, so that it can be shown.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from launcher.errors import LocalFault
from launcher.git import work_tree
from launcher.hosts.preflight_checks import Check, Verdict
from launcher.paths import StatePaths
from launcher.remote.keys import ensure_key, public_line

OLDEST_PYTHON = (3, 10)
OLDEST_SSH = (7, 6)
"""StrictHostKeyChecking=accept-new, ControlMaster and ProxyJump as we use them."""
OLDEST_RSYNC = (3, 1)
"""--info=progress2."""
_SBIN = ("/usr/sbin", "/usr/local/sbin", "/sbin", "/opt/homebrew/sbin", "/opt/homebrew/bin")
_LITTLE_GB, _TOO_LITTLE_GB = 5.0, 1.0

_PACKAGES = {
    "ssh": {"apt-get": "openssh-client", "dnf": "openssh-clients", "brew": "openssh"},
    "sshd": {"apt-get": "openssh-server", "dnf": "openssh-server", "brew": "openssh"},
    "rsync": {"apt-get": "rsync", "dnf": "rsync", "brew": "rsync"},
    "git": {"apt-get": "git", "dnf": "git", "brew": "git"},
}


def diagnosis(root: Path, state: StatePaths) -> list[Check]:
    """Every check, in the order a person would repair them; `root` is the project."""
    return [_python(), _ssh(), _rsync(), _sshd(), _git(root), _disk(root), *_state(state)]


def install_command(program: str) -> str:
    """What to type to get a program on this machine."""
    packages = _PACKAGES[program]
    for manager, package in packages.items():
        if shutil.which(manager):
            sudo = "" if manager == "brew" or os.geteuid() == 0 else "sudo "
            return f"{sudo}{manager} install {package}"
    return f"install {packages['apt-get']} with this system's package manager"


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Check("python", Verdict.FAIL, found, "install Python 3.10 or newer")
    return Check("python", Verdict.PASS, found)


def _ssh() -> Check:
    said = _words(["ssh", "-V"])
    missing = [name for name in ("ssh", "ssh-keygen", "ssh-keyscan") if shutil.which(name) is None]
    if said is None or missing:
        return Check("ssh", Verdict.FAIL, f"not installed: {', '.join(missing or ['ssh'])}", install_command("ssh"))
    return _at_least("ssh", said, r"OpenSSH_\w*?(\d+)\.(\d+)", OLDEST_SSH)


def _rsync() -> Check:
    said = _words(["rsync", "--version"])
    if said is None:
        return Check("rsync", Verdict.FAIL, "not installed", install_command("rsync"))
    return _at_least("rsync", said, r"rsync\s+version v?(\d+)\.(\d+)", OLDEST_RSYNC)


def _sshd() -> Check:
    where = shutil.which("sshd", path=os.pathsep.join([os.environ.get("PATH", ""), *_SBIN]))
    if where is None:
        return Check("sshd", Verdict.WARN, "not installed; the provider `local` needs it", install_command("sshd"))
    return Check("sshd", Verdict.PASS, where)


def _git(root: Path) -> Check:
    said = _words(["git", "--version"])
    if said is not None:
        return Check("git", Verdict.PASS, said.splitlines()[0])
    if work_tree(root) is not None:
        return Check("git", Verdict.FAIL, "not installed, and this project lies in a work tree", install_command("git"))
    return Check("git", Verdict.PASS, "not installed, and not needed: this project is not in git")


def _disk(root: Path) -> Check:
    try:
        free = shutil.disk_usage(root).free / 1e9
    except OSError as error:
        return Check(
            "disk", Verdict.FAIL, f"cannot look at {root}: {error.strerror}", "change to your project's folder"
        )
    found = f"{free:,.0f} GB free for checkpoints in {root}"
    if free < _TOO_LITTLE_GB:
        return Check("disk", Verdict.FAIL, found, "make room: checkpoints come home to runs/")
    if free < _LITTLE_GB:
        return Check("disk", Verdict.WARN, found, "a GPT-2 124M checkpoint takes 1.5 GB")
    return Check("disk", Verdict.PASS, found)


def _state(state: StatePaths) -> Iterator[Check]:
    try:
        state.root.mkdir(parents=True, exist_ok=True)
        ensure_key(state.private_key)
        probe = state.root / f".probe-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
        line = public_line(state.private_key)
    except (OSError, LocalFault) as error:
        why = error.why if isinstance(error, LocalFault) else error.strerror
        yield Check("state", Verdict.FAIL, f"cannot use {state.root}: {why}", "export GPTOPS_HOME=/a/folder/of/yours")
        return
    yield Check("state", Verdict.PASS, str(state.root))
    others = state.private_key.stat().st_mode & 0o077
    if others:
        yield Check("key", Verdict.FAIL, "others may read our private key", f"chmod 600 '{state.private_key}'")
    else:
        yield Check("key", Verdict.PASS, line)


def _at_least(name: str, said: str, pattern: str, oldest: tuple[int, int]) -> Check:
    match = re.search(pattern, said)
    first = said.splitlines()[0] if said else "says nothing about its version"
    wanted = ".".join(str(number) for number in oldest)
    if match is None:
        return Check(name, Verdict.FAIL, f"not one we know: {first}", f"{install_command(name)}   # {wanted} or newer")
    if (int(match[1]), int(match[2])) < oldest:
        return Check(name, Verdict.FAIL, f"{first}, older than {wanted}", install_command(name))
    return Check(name, Verdict.PASS, first)


def _words(argv: Sequence[str]) -> str | None:
    """What a program says, on either stream; None where it is not there."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
    except (FileNotFoundError, PermissionError):
        return None
    except subprocess.TimeoutExpired:
        return ""
    return (done.stdout + done.stderr).decode(errors="replace").strip()
