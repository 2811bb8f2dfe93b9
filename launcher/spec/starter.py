"""The jobs.yaml a project starts with: the annotated example at the root of the repository, as it is."""

from __future__ import annotations

from pathlib import Path

from launcher.errors import LocalFault, UsageError
from launcher.project import JOBS_FILE
from launcher.running.render import example_jobs


def write_starter(folder: Path) -> Path:
    """Write jobs.yaml into `folder` and return its path. An existing one is never touched."""
    path = folder / JOBS_FILE
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(example_jobs())
    except FileExistsError as error:
        raise UsageError(
            f"{path} exists already", why="what you wrote is never overwritten", hint="gptops check"
        ) from error
    except OSError as error:
        raise LocalFault(f"cannot write {path}", why=error.strerror or str(error), hint=f"ls -ld '{folder}'") from error
    return path
