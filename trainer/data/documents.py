"""One text after the other, and where each stands in its source, so that reading can go on there.

A source is files in an order that never changes, a file is rows, a row is a
document (or a line of one). Who reads promises that what follows a place is
the same whenever it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, order=True)
class Place:
    """So many files of a source are done, and so many rows of the next."""

    file: int = 0
    row: int = 0


START = Place()


@dataclass(frozen=True)
class Document:
    """One text, closed by end-of-text when it is tokenized."""

    texts: Iterable[str]
    """Its parts in order; they can be read once, and only before the next document is asked for."""
    begins: Place
    """Asked for again from here, it is the first."""
    ends: Place
    """The next one begins here, or later."""
    begins_at: int = 0
    """How far into the source it begins and ends, in bytes, for progress; 0 where nobody can tell."""
    ends_at: int = 0


class Source(Protocol):
    """Where documents come from."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def total_bytes(self) -> int:
        """On disk; 0 where nobody can tell."""
        ...

    @property
    def likely_tokens(self) -> int:
        """About how many there are; 0 where nobody can tell."""
        ...

    @property
    def version(self) -> str:
        """Which version of itself it is reading: the hub's commit; "" for files, whose stamp says it."""
        ...

    def stamp(self) -> Any:
        """JSON; of two equal ones the second needs not be prepared again. Touches no network."""
        ...

    def documents(self, start: Place = START) -> Iterator[Document]:
        """Those from `start` on. Raises DataError for what cannot be read as text."""
        ...

    def require_unchanged(self) -> None:
        """Raises DataError where it is no longer what it was when it was found."""
        ...
