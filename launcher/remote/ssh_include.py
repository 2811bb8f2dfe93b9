"""One line in the user's own ssh_config, opted into, by which plain `ssh gptops-NAME` finds our open hosts.

The line includes a file of ours, and that one every open host's ssh_config: they come
when a host opens and go when it closes, so nothing has to be kept up to date. Of the
user's file only our three lines are ever written or taken away; every other byte stays.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import LocalFault
from launcher.paths import StatePaths

BEGIN = b"# gptops: begin (`gptops ssh-config --uninstall` takes these three lines away)\n"
END = b"# gptops: end\n"
_TRIES = 5

_Change = Callable[[bytes], bytes]


def include_line(state: StatePaths) -> str:
    """What stands in the user's file."""
    return f'Include "{_plain(state.ssh_include)}"'


def write_include(state: StatePaths) -> Path:
    """Write our own file. The same again changes nothing."""
    # Of each option OpenSSH takes the first value it meets. A connection of the user's own is not shared with
    # gptops: `gptops down` must not cut it, and its socket's folder may be gone after a reboot.
    text = f"""\
# Written by gptops. {include_line(state)}
Host gptops-*
  ControlMaster no
  ControlPath none
  Include "{_plain(state.root / "hosts")}/*/ssh_config"
"""
    path = state.ssh_include
    if not path.exists() or path.read_text() != text:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(path, text.encode(), 0o600)
        except OSError as error:
            raise _unwritable(path, error) from error
    return path


@dataclass(frozen=True)
class UserConfig:
    """The user's ssh_config; a link to one is followed, so that it stays a link."""

    path: Path

    def includes(self, state: StatePaths) -> bool:
        """Whether our line stands in it."""
        return _block(state) in self._read()

    def install(self, state: StatePaths) -> bool:
        """Put our lines first: options of the user's `Host *` must not win over ours. False: they stood there."""
        write_include(state)
        return self._change(lambda text: _block(state) + _without_block(text, self.path))

    def uninstall(self) -> bool:
        """Take our lines away, and the file with them where nothing else is in it. False: none were there."""
        return self._change(lambda text: _without_block(text, self.path))

    def _change(self, change: _Change) -> bool:
        """Atomic; begun anew when somebody else writes the file in between."""
        real = self.path.resolve()
        try:
            for _ in range(_TRIES):
                before = self._read()
                after = change(before)
                if after == before:
                    return False
                if self._commit(real, before, after):
                    return True
        except OSError as error:
            raise _unwritable(real, error) from error
        raise LocalFault(f"{real} is being written by somebody else", hint="type it again")

    def _commit(self, real: Path, before: bytes, after: bytes) -> bool:
        if not after:
            real.unlink()
            return True
        real.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = real.stat().st_mode & 0o777 if real.exists() else 0o600
        return _replace(real, after, mode, only_if=before)

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise _unwritable(self.path, error) from error


def user_config() -> UserConfig:
    """Where OpenSSH looks for it."""
    return UserConfig(Path.home() / ".ssh" / "config")


def _block(state: StatePaths) -> bytes:
    return BEGIN + os.fsencode(include_line(state)) + b"\n" + END


def _without_block(text: bytes, path: Path) -> bytes:
    """The text without our lines, whatever file they include. Lines that somebody has changed are not ours to take."""
    if BEGIN not in text:
        return text
    before, _, rest = text.partition(BEGIN)
    included, newline, rest = rest.partition(b"\n")
    if not included.startswith(b"Include ") or not newline or not rest.startswith(END):
        raise LocalFault(
            f"what stands in {path} between gptops' two comments was not written by gptops",
            why="only its own lines are ever taken away",
            hint=f"take out by hand what is between `# gptops: begin` and `# gptops: end`: ${{EDITOR:-vi}} '{path}'",
        )
    return before + rest.removeprefix(END)


def _replace(path: Path, content: bytes, mode: int, *, only_if: bytes | None = None) -> bool:
    """Write beside it, then rename. False where the file is not `only_if` any more."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as fresh:
        fresh.write(content)
        fresh.flush()
        os.fsync(fresh.fileno())
    os.chmod(fresh.name, mode)
    if only_if is not None and (path.read_bytes() if path.exists() else b"") != only_if:
        os.unlink(fresh.name)
        return False
    os.replace(fresh.name, path)
    return True


def _plain(path: Path) -> str:
    text = str(path)
    if any(sign in text for sign in '"\\%$*?[]\n\r'):
        raise LocalFault(
            f"OpenSSH cannot include the path {text!r}",
            why="it gives signs like * and % a meaning of their own there",
            hint="set GPTOPS_HOME to a plainer path",
        )
    return text


def _unwritable(path: Path, error: OSError) -> LocalFault:
    return LocalFault(f"cannot use {path}", why=error.strerror or str(error), hint=f"ls -ld '{path.parent}' '{path}'")
