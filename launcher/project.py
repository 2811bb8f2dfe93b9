"""The folder the user works in: where its jobs.yaml lies, and what it is called elsewhere."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

JOBS_FILE = "jobs.yaml"


@dataclass(frozen=True)
class Project:
    """A folder that is uploaded as a whole, with or without a jobs.yaml."""

    root: Path
    """Absolute, symlinks resolved."""
    name: str
    """The folder's name in `a-z 0-9 -`: part of labels."""
    jobs_file: Path | None
    """jobs.yaml in `root`; None where the project has none."""

    @property
    def slug(self) -> str:
        """The name and where the folder lies, so that two folders `gpt` do not share an upload on one host."""
        return f"{self.name}-{hashlib.sha256(os.fsencode(self.root)).hexdigest()[:8]}"


def find_project(start: Path) -> Project:
    """The project `start` lies in: the nearest folder upwards with a jobs.yaml, else `start` itself."""
    here = start.resolve()
    for folder in (here, *here.parents):
        if (folder / JOBS_FILE).is_file():
            return Project(folder, _plain(folder.name), folder / JOBS_FILE)
    return Project(here, _plain(here.name), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "project"
