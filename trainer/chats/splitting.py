"""Which rows train and which validate, by place, and the hash by which a run knows its rows again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TypeVar

from trainer.chats.encoding import Encoded
from trainer.errors import DataError

T = TypeVar("T")

MOST_BAD_SHARE = 0.1
"""More rows than that out of ten that say nothing sensible are no accident: the file is another than was meant."""


def held_out(rows: list[T], val_fraction: float, kind: str) -> tuple[list[T], list[T]]:
    """The rows to train on, and the last ones, which validate. Raises DataError where either would be empty."""
    last = max(1, round(len(rows) * val_fraction))
    if last >= len(rows):
        raise DataError(
            f"too few {kind} to train on and to validate",
            why=f"{len(rows)} can be learnt from, {last} of them validate",
            hint="more rows, or a smaller `data.val_fraction`",
        )
    return rows[:-last], rows[-last:]


def identity_of(rows: Iterable[Encoded]) -> str:
    """sha256 over every id and what of it is learnt, in this order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(len(row).to_bytes(8, "little") + row.ids.tobytes() + row.is_trained.tobytes())
    return digest.hexdigest()
