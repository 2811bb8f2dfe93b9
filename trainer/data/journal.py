"""How far an unfinished preparation came, so that a killed one goes on where it was.

Written beside the unfinished shards each time some of them are safe on the
disk; what the shards hold beyond it is cut off and made again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.data.documents import Place
from trainer.data.encoding import NOTHING, Mark
from trainer.manifest import fsync

JOURNAL = "progress.json"


@dataclass(frozen=True)
class Journal:
    """The contents of progress.json."""

    fingerprint: str
    """Of the preparation it belongs to."""
    version: str = ""
    """Of the source, as it names it."""
    tokens: int = 0
    """That are safe in the shards."""
    mark: Mark = NOTHING
    """What of the source they are."""

    def write(self, out: Path) -> None:
        """Replace the one that is there."""
        path = out / f"{JOURNAL}.tmp"
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")
        fsync(path)
        path.replace(out / JOURNAL)


def read_journal(out: Path, fingerprint: str) -> Journal:
    """The journal of this preparation; a blank one where there is none that can be used."""
    try:
        raw = json.loads((out / JOURNAL).read_text(encoding="utf-8"))
        mark = Mark(**{**raw["mark"], "place": Place(**raw["mark"]["place"])})
        journal = Journal(**{**raw, "mark": mark})
    except (OSError, ValueError, KeyError, TypeError):
        return Journal(fingerprint)
    return journal if journal.fingerprint == fingerprint else Journal(fingerprint)


def forget_journal(out: Path) -> None:
    """Remove it; there is nothing to go on with."""
    (out / JOURNAL).unlink(missing_ok=True)
