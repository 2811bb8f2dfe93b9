"""The real `gptops`, as a process of its own: for what must survive its death, and for exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Finished:
    """How it ended."""

    exit_code: int
    stdout: str
    stderr: str


def gptops(*words: str, home: Path, crash_at: str = "", cwd: Path | None = None) -> Finished:
    """Run it to its end, with `home` as the user's state."""
    done = subprocess.run(
        [sys.executable, "-m", "launcher", *words],
        env=_environment(home, crash_at),
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def gptops_in_background(*words: str, home: Path) -> subprocess.Popen[bytes]:
    """Start it in a session of its own and return at once."""
    return subprocess.Popen(
        [sys.executable, "-m", "launcher", *words],
        env=_environment(home, ""),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _environment(home: Path, crash_at: str) -> dict[str, str]:
    return {**os.environ, "GPTOPS_HOME": str(home), "PYTHONPATH": str(ROOT), "GPTOPS_CRASH_AT": crash_at}
