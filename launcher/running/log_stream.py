"""One connection's worth of a remote log: bytes from an offset on, into the local copy.

The local copy is a byte-for-byte prefix of the host's log. Every connection asks
again for the last bytes that are at home and compares them, so a log that was
cut, rotated or replaced is noticed before a byte is added. Bytes are written at
their own position: two gptops that follow the same run write the same bytes to
the same place.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.commands import runs as commands
from launcher.errors import LocalFault
from launcher.paths import RemoteRun
from launcher.remote.transport import Stream, Transport

OVERLAP_BYTES = 4096
_BLOCK_BYTES = 1 << 16


class StreamEnd(enum.Enum):
    """Why a stream of log bytes ended."""

    COMPLETE = "complete"
    """Everything there is has come; following, the run has ended too."""
    CUT = "cut"
    """The connection ended first, or never was."""
    OTHER_LOG = "other log"
    """What the host has does not continue what is at home."""


@dataclass(frozen=True)
class LogCopy:
    """The local copy of a run's log."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`, as far as they are there."""
        if start >= end or not self.path.exists():
            return b""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def tail(self, lines: int) -> bytes:
        """The last lines."""
        text = self.read(max(0, self.size - lines * 400), self.size)
        return b"".join(text.splitlines(keepends=True)[-lines:])

    def set_aside(self) -> Path:
        """Keep this copy under another name, and begin a new one."""
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        self.path.rename(aside)
        return aside

    @contextmanager
    def open_for_writing(self) -> Iterator[Callable[[int, bytes], None]]:
        """Yields `write(position, bytes)`; what was written is on the disk at the end."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._fault(error) from error
        try:
            yield lambda position, data: self._write(descriptor, position, data)
        finally:
            os.fsync(descriptor)
            os.close(descriptor)

    def _write(self, descriptor: int, position: int, data: bytes) -> None:
        try:
            while data:
                written = os.pwrite(descriptor, data, position)
                data, position = data[written:], position + written
        except OSError as error:
            raise self._fault(error) from error

    def _fault(self, error: OSError) -> LocalFault:
        return LocalFault(
            f"cannot write {self.path}",
            why=error.strerror or str(error),
            hint=f"df -h {self.path.parent}   # make room and run the command again: the run goes on, nothing is lost",
        )


Sink = Callable[[int, bytes], None]
"""Told about every new piece of log and the offset it begins at."""


def stream_log(transport: Transport, run: RemoteRun, copy: LogCopy, sink: Sink, *, follow: bool) -> StreamEnd:
    """Append what the host has beyond the local copy; following, until the run has ended or the connection is gone."""
    start = max(0, copy.size - OVERLAP_BYTES)
    known = copy.read(start, copy.size)
    with transport.stream(commands.send_log(run, start, follow=follow)) as source:
        again = _read_exactly(source, len(known))
        if again != known:
            is_cut = len(again) < len(known) and _end(source) is StreamEnd.CUT
            return StreamEnd.CUT if is_cut else StreamEnd.OTHER_LOG
        position = start + len(known)
        with copy.open_for_writing() as write:
            while block := source.read(_BLOCK_BYTES):
                write(position, block)
                sink(position, block)
                position += len(block)
        return _end(source)


def _read_exactly(source: Stream, count: int) -> bytes:
    """`count` bytes, or fewer where the stream ends before."""
    seen = b""
    while len(seen) < count and (block := source.read(count - len(seen))):
        seen += block
    return seen


def _end(source: Stream) -> StreamEnd:
    """Called after the end of the output."""
    code = source.exit_code()
    if code == commands.LOG_IS_SHORTER:
        return StreamEnd.OTHER_LOG
    return StreamEnd.COMPLETE if code == 0 else StreamEnd.CUT
