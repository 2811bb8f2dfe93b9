"""The OpenSSH client's output, read as it comes; the client is gone when nobody reads any more."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from launcher.errors import LocalFault

LOST_CONNECTION = 255
"""What ssh answers where it is not the command's own code."""


@dataclass(frozen=True)
class SshStream:
    """One client at work."""

    process: subprocess.Popen[bytes]

    def read(self, most: int) -> bytes:
        """Some bytes; b"" at the end."""
        assert self.process.stdout is not None
        return os.read(self.process.stdout.fileno(), most)

    def exit_code(self) -> int | None:
        """The command's code; None for a lost connection."""
        code = self.process.wait()
        return None if code == LOST_CONNECTION or code < 0 else code


@contextmanager
def streaming(argv: list[str]) -> Iterator[SshStream]:
    """Run the client `argv`; gone when the block is left, however it is left.

    Its stdin stays open for as long as we live: when it closes, the host's end of the stream goes away too. In a
    session of its own, so that Ctrl-C is ours alone.
    """
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
    except OSError as error:
        raise LocalFault(f"cannot run `{argv[0]}`", why=error.strerror or str(error), hint="gptops doctor") from error
    with process:
        try:
            yield SshStream(process)
        finally:
            process.kill()
