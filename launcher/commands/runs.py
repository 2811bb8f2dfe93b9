"""What is typed on a host to prepare, start, watch and stop a run. Pure.

Everything a run's own script can do is asked of that script (templates/run.sh),
so a run keeps the version it was started with.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from launcher.paths import RemoteRun
from launcher.remote.transport import Command

REFUSED = 73
"""What `run.sh start` answers where a scheduler did not take the job (templates/slurm.sh)."""
LOG_IS_SHORTER = 66
"""What `run.sh log` answers where the log has fewer bytes than it was asked to skip."""


@dataclass(frozen=True)
class RunFile:
    """One small file of a run's folder."""

    name: str
    """Relative to the run's folder."""
    content: bytes
    mode: int = 0o644


_PREPARE = """\
set -e
rm -rf -- "$1"
mkdir -p -- "$1/code"
cp -al -- "$2/." "$1/code/" 2>/dev/null || { rm -rf -- "$1/code"; mkdir -- "$1/code"; cp -a -- "$2/." "$1/code/"; }
umask 077
tar -xf - -C "$1"
"""
# Hard links make the copy of a large project free; `cp -a` stands in where there are none (macOS, two file systems).


def prepare_run(run: RemoteRun, upload: PurePosixPath, files: Iterable[RunFile]) -> Command:
    """Make everything of a run, beside the place where it will be found: its own copy of the code, and its files.

    The files travel on stdin, as a tar, so that no value stands on a command line.
    """
    return _script(_PREPARE, str(run.preparing), str(upload), stdin=tar_of(files))


_START = """\
set -e
if [ -d "$1" ]; then mv -- "$1" "$2"; fi
if [ ! -f "$2/run.sh" ]; then echo 'the run was not prepared' >&2; exit 69; fi
code=0
sh "$2/run.sh" start 1 || code=$?
# Refused by a scheduler, it goes back to where nobody finds it.
if [ "$code" -eq 73 ]; then mv -- "$2" "$1"; fi
exit "$code"
"""


def start_run(run: RemoteRun) -> Command:
    """Let the prepared run be found, and start it. Asked again, it does nothing and tells the status."""
    return _script(_START, str(run.preparing), str(run.root))


def restart_run(run: RemoteRun, attempt: int) -> Command:
    """Start the training again in its folder, as this attempt. An attempt that was started is not started again."""
    return Command(("sh", str(run.run_script), "start", str(attempt)))


def discard_prepared(run: RemoteRun) -> Command:
    """Forget a run that was prepared and never started. What was started is not touched."""
    return Command(("rm", "-rf", "--", str(run.preparing)))


def read_status(run: RemoteRun) -> Command:
    """Print what is true of a run now."""
    return Command(("sh", str(run.run_script), "status"))


def stop_run(run: RemoteRun, grace_seconds: int) -> Command:
    """Let every training process save, wait, then kill what is left; exit code 70 where something survived."""
    return Command(("sh", str(run.run_script), "stop", str(grace_seconds)))


def send_log(run: RemoteRun, offset: int, *, follow: bool) -> Command:
    """Print the log's bytes from `offset` on; following, until the run has ended or our stdin is closed."""
    return Command(("sh", str(run.run_script), "log", str(offset), *(("-f",) if follow else ()), *_whose(run)))


def log_offset_before(run: RemoteRun, seconds: int) -> Command:
    """Print the size that the log had `seconds` ago."""
    return Command(("sh", str(run.run_script), "since", str(seconds), *_whose(run)))


def _whose(run: RemoteRun) -> tuple[str, ...]:
    return (f"node={run.node}",) if run.node else ()


def _script(text: str, *arguments: str, stdin: bytes = b"") -> Command:
    return Command(("sh", "-c", text, "sh", *arguments), stdin=stdin)


def tar_of(files: Iterable[RunFile]) -> bytes:
    """The files of a run's folder, for `tar -x`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for file in files:
            entry = tarfile.TarInfo(file.name)
            entry.size, entry.mode = len(file.content), file.mode
            archive.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()
