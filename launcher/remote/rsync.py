"""One rsync, run to its end: progress while it goes, a typed error when it fails.

Callers build the argv (what is copied, and whether it may resume); this module
knows rsync's exit codes and words. It neither retries nor verifies, and takes
rsync's "0" for no more than "rsync is content".
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Literal

from launcher.errors import GptopsError, HostRefused, HostUnfit, LocalFault, Unreachable

OnProgress = Callable[[int], None]
"""Told the number of bytes that have arrived so far."""

COMMON_OPTIONS = ("--info=progress2", "--stats", "--no-human-readable", "--secluded-args", "--timeout=60")
"""What `run_rsync` reads, names that no shell may touch, and an end when a peer freezes."""
PARTIAL = ".rsync-partial"
"""Where a cut transfer's first half waits, in the folder of its file."""


@dataclass(frozen=True)
class RsyncOutcome:
    """What a successful transfer did."""

    files: int
    """Regular files that were sent because they differed."""
    bytes: int
    """Their size in all."""


def run_rsync(
    argv: Sequence[str],
    stdin: bytes = b"",
    on_progress: OnProgress | None = None,
    *,
    receiver: Literal["here", "host"],
    host_name: str,
    pass_fds: Sequence[int] = (),
) -> RsyncOutcome:
    """Run `argv` (with COMMON_OPTIONS in it). `receiver` says whose disk was written, for the error.

    `pass_fds` stay open in rsync (its ssh closes them): a lock lasts as long as an rsync that outlives us.
    """
    with tempfile.TemporaryFile() as feed, tempfile.TemporaryFile() as complaints:
        feed.write(stdin)
        feed.seek(0)
        try:
            # C locale: the words and the digits below are rsync's own.
            child = subprocess.Popen(
                argv,
                stdin=feed,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env={**os.environ, "LC_ALL": "C"},
                pass_fds=pass_fds,
            )
        except FileNotFoundError as error:
            raise LocalFault(
                "rsync is not installed here",
                why="files travel with it",
                hint="apt-get install rsync   (macOS: brew install rsync)",
            ) from error
        lines = _followed(child, on_progress or (lambda done: None))
        complaints.seek(0)
        said = complaints.read().decode(errors="replace").strip()
    if child.returncode != 0:
        raise rsync_error(child.returncode, said, receiver=receiver, host_name=host_name)
    return RsyncOutcome(
        _figure("Number of regular files transferred", lines), _figure("Total transferred file size", lines)
    )


def _followed(child: subprocess.Popen[bytes], on_progress: OnProgress) -> list[str]:
    lines = []
    try:
        assert child.stdout is not None
        with child.stdout:
            for line in _lines(child.stdout):
                progress = re.match(r"\s*([\d,]+)\s+\d+%\s", line)
                if progress:
                    on_progress(int(progress[1].replace(",", "")))
                else:
                    lines.append(line)
    except BaseException:
        child.terminate()  # SIGTERM, not SIGKILL: it then keeps what has arrived, and a rerun resumes
        raise
    finally:
        child.wait()
    return lines


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Lines as they come; rsync ends those of a progress display with a carriage return."""
    rest = b""
    while chunk := os.read(stream.fileno(), 65536):
        *whole, rest = re.split(rb"[\r\n]", rest + chunk)
        yield from (line.decode(errors="replace") for line in whole)
    yield rest.decode(errors="replace")


def _figure(title: str, lines: Sequence[str]) -> int:
    for line in lines:
        name, _, value = line.partition(": ")
        if name == title:
            return int(value.split()[0].replace(",", ""))
    return 0


def rsync_error(exit_code: int, said: str, *, receiver: Literal["here", "host"], host_name: str) -> GptopsError:
    """What an exit code and rsync's complaints mean, and whose fault it is."""
    lines = [line for line in said.splitlines() if line.strip()]
    why = _telling(lines) or f"rsync ended with code {exit_code}"
    unfit = LocalFault if receiver == "here" else HostUnfit
    where = "here" if receiver == "here" else f"on `{host_name}`"
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return unfit(
            f"the disk is full {where}",
            why=why,
            hint="df -h" if receiver == "here" else f"gptops ssh {host_name} -- df -h",
        )
    if exit_code == 127 or re.search(r"rsync: (command )?not found|rsync: No such file", said):
        return HostUnfit(
            f"rsync is not installed on `{host_name}`",
            why=why,
            hint=f"gptops ssh {host_name} -- 'apt-get update && apt-get install -y rsync'",
        )
    if "unknown option" in said or "unrecognized option" in said:
        return LocalFault(
            "this rsync is too old", why=why, hint="install rsync 3.1 or newer (macOS: brew install rsync)"
        )
    if exit_code == 255:
        return ssh_error(said, host_name)
    if "Permission denied (13)" in said or "Read-only file system" in said:
        return unfit(f"no permission to write {where}", why=why, hint="ls -ld the folder above")
    if exit_code in (10, 12, 30, 35):
        return Unreachable(
            f"the connection to `{host_name}` broke during the transfer", why=why, hint="the same command again goes on"
        )
    if 128 < exit_code < 255:
        killed = f"rsync on `{host_name}` was killed by signal {exit_code - 128}"
        return Unreachable(killed, why=why, hint="the same command again goes on")
    if exit_code in (20, -15, -2):
        return LocalFault("rsync was stopped", why=why, hint="the same command again goes on")
    if exit_code == -9:
        return LocalFault("rsync was killed", why="by SIGKILL: out of memory?", hint="the same command again goes on")
    return unfit(f"rsync could not copy everything {where}", why=why)


def ssh_error(said: str, host_name: str) -> GptopsError:
    """What OpenSSH's complaints mean when it ends with 255."""
    why = _telling(said.splitlines()) or "ssh ended with code 255 and said nothing"
    if "HOST IDENTIFICATION HAS CHANGED" in said or "Host key verification failed" in said:
        return HostRefused(
            f"the host key of `{host_name}` is not the pinned one",
            why=why,
            hint=f"do not connect; if you reinstalled it: gptops down {host_name} --discard, then open it again",
        )
    if "Permission denied (" in said:
        return HostRefused(
            f"`{host_name}` refused our key", why=why, hint="gptops doctor shows the key the host must know"
        )
    return Unreachable(f"no SSH connection to `{host_name}`", why=why, hint=f"gptops test-remote {host_name}")


def _telling(lines: Sequence[str]) -> str:
    """The line that says most: the first complaint, not rsync's closing summary."""
    told = [line.strip() for line in lines if line.strip() and not line.startswith(("rsync error:", "rsync warning:"))]
    return (told or [line.strip() for line in lines if line.strip()] or [""])[0]
