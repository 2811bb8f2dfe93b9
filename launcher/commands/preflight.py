"""What `test-remote` types on a host. Pure.

The probe programs are put into a folder of their own, which looks like a run's
and is removed at the end.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from launcher.paths import REMOTE_VENVS
from launcher.remote.transport import Command
from launcher.running.render import template
from trainer import manifest

PROGRAM = "preflight.py"


def round_trip() -> Command:
    """The shortest command with an answer."""
    return Command(("true",))


def read_clock() -> Command:
    """Print the host's seconds since the epoch."""
    return Command(("python3", "-I", "-c", "import time; print(time.time())"))


def install(folder: PurePosixPath) -> tuple[Command, ...]:
    """Put the probe and what it imports into `folder`."""
    programs = {PROGRAM: template(PROGRAM).encode(), "manifest.py": Path(manifest.__file__).read_bytes()}
    return tuple(
        Command(("sh", "-c", 'mkdir -p -- "$1" && cat > "$1/$2"', "sh", str(folder), name), stdin=program)
        for name, program in programs.items()
    )


def probe(folder: PurePosixPath, mode: str, *arguments: str, python: str = "python3") -> Command:
    """Run one mode of templates/preflight.py."""
    return Command((python, str(folder / PROGRAM), mode, *arguments))


def find_python() -> Command:
    """Print the Python of the environment that setup made last; else python3's, which an image may have filled."""
    # setup.sh writes .gptops-ready last: a half-made environment is not asked.
    newest = 'for r in $(ls -t -- "$1"/*/.gptops-ready 2>/dev/null); do echo "${r%/*}/bin/python"; exit; done'
    return Command(("sh", "-c", f"{newest}; command -v python3", "sh", str(REMOTE_VENVS)))


def remove(folder: PurePosixPath) -> Command:
    """Leave nothing behind."""
    return Command(("rm", "-rf", "--", str(folder)))
