"""gptops' own login key, made at first need, and how keys are shown to people.

One ed25519 pair for all hosts, in the user's state directory, readable by the
user alone. It is never copied to a host; only its public line travels.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import subprocess
from pathlib import Path

from launcher.errors import LocalFault


def ensure_key(private_key: Path) -> None:
    """Make the pair if there is none. Two processes at once end with the same pair."""
    if private_key.exists() and public_key_file(private_key).exists():
        return
    try:
        private_key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_key_pair(private_key, comment="gptops")
    except OSError as error:
        raise LocalFault(
            f"could not write the key {private_key}", why=str(error), hint="set GPTOPS_HOME to a folder you may write"
        ) from error


def make_key_pair(private_key: Path, *, comment: str) -> None:
    """A new ed25519 pair at `private_key` and `private_key`.pub, whole or not at all; an existing one stays."""
    fresh = private_key.with_name(f".{private_key.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    _ssh_keygen("-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(fresh))
    try:
        os.link(fresh, private_key)
    except FileExistsError:
        pass_on = private_key  # somebody was faster, or the public half was lost: the private half decides
        public_key_file(fresh).write_text(_ssh_keygen("-y", "-f", str(pass_on)))
    os.replace(public_key_file(fresh), public_key_file(private_key))
    fresh.unlink()


def public_key_file(private_key: Path) -> Path:
    """Where ssh-keygen puts the public half."""
    return private_key.with_name(private_key.name + ".pub")


def public_line(private_key: Path) -> str:
    """The line for a host's authorized_keys."""
    return public_key_file(private_key).read_text().strip()


def fingerprint(key_line: str) -> str:
    """`ssh-ed25519 SHA256:…` of `ssh-ed25519 AAAA…`, as OpenSSH shows it."""
    kind, blob = key_line.split()[:2]
    try:
        digest = hashlib.sha256(base64.b64decode(blob, validate=True)).digest()
    except binascii.Error:
        return f"{kind} (not a key)"
    return f"{kind} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _ssh_keygen(*arguments: str) -> str:
    try:
        done = subprocess.run(["ssh-keygen", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise LocalFault(
            "ssh-keygen is not installed here",
            why="gptops makes its login key with it",
            hint="apt-get install openssh-client",
        ) from error
    if done.returncode != 0:
        raise LocalFault("ssh-keygen could not make a key", why=done.stderr.strip() or done.stdout.strip())
    return done.stdout
