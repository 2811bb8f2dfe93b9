"""Conversations of a run, encoded: what is trained on, what validates, and what was left out.

They are kept in memory, two bytes and a bit a token; a run knows them again by a hash over every id and what of it is
learnt.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.chats.encoding import Encoded, encode_segments, fitted
from trainer.chats.formats import Format, NotThatFormat, conversation_of, format_of
from trainer.chats.template import Template, segments_of
from trainer.errors import DataError
from trainer.tokenizer import Tokenizer

_MOST_BAD_SHARE = 0.1
"""More rows than that out of ten that say nothing sensible are no accident: the file is another than was meant."""


@dataclass(frozen=True)
class ChatData:
    """Encoded conversations, split by place: the last ones validate."""

    train: list[Encoded]
    val: list[Encoded]
    format: Format
    template: Template
    counts: Counter[str]
    identity: str


def load_chats(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    template: Template,
    *,
    seq_len: int,
    val_fraction: float,
    train_on_all: bool = False,
) -> ChatData:
    """Sniff, render, encode and fit every row. Raises DataError where too many are bad, or nothing is left."""
    counts: Counter[str] = Counter()
    found: list[Encoded] = []
    format: Format | None = None
    first_problem = ""
    for number, row in enumerate(rows, start=1):
        try:
            format = format or format_of(row)
            conversation = conversation_of(row, format)
        except (NotThatFormat, KeyError) as problem:
            counts["bad"] += 1
            first_problem = first_problem or f"row {number}: {problem}"
            continue
        learnt = [True] * len(conversation.messages) if train_on_all else None
        found.append(encode_segments(segments_of(conversation, template, trained=learnt), tokenizer))
    _require_good(counts["bad"], len(found), first_problem)
    assert format is not None
    kept = fitted(found, seq_len, counts)
    held_out = max(1, round(len(kept) * val_fraction))
    if held_out >= len(kept):
        raise DataError(
            "too few conversations to train on and to validate",
            why=f"{len(kept)} can be learnt from, {held_out} of them validate",
            hint="more rows, or a smaller `data.val_fraction`",
        )
    return ChatData(kept[:-held_out], kept[-held_out:], format, template, counts, _identity(kept))


def _require_good(bad: int, good: int, first_problem: str) -> None:
    if bad > _MOST_BAD_SHARE * (bad + good) or not good:
        raise DataError(
            "the rows are no conversations that can be trained on" if bad else "there are no rows",
            why=f"{bad} of {bad + good} rows cannot be read; {first_problem}" if bad else "",
            hint="look at them: `python -m trainer show PATH`",
        )


def _identity(rows: Iterable[Encoded]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(len(row).to_bytes(8, "little") + row.ids.tobytes() + row.is_trained.tobytes())
    return digest.hexdigest()
