"""Conversations of a run, encoded: what is trained on, what validates, and what was left out.

They are kept in memory, two bytes and a bit a token; a run knows them again by a hash over every id and what of it is
learnt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.chats.encoding import Encoded, encode_segments, fitted
from trainer.chats.formats import Format, NotThatFormat, conversation_of, format_of
from trainer.chats.splitting import MOST_BAD_SHARE, held_out, identity_of
from trainer.chats.template import Template, segments_of
from trainer.errors import DataError
from trainer.tokenizer import Tokenizer


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
    train, val = held_out(kept, val_fraction, "conversations")
    return ChatData(train, val, format, template, counts, identity_of(kept))


def _require_good(bad: int, good: int, first_problem: str) -> None:
    if bad > MOST_BAD_SHARE * (bad + good) or not good:
        raise DataError(
            "the rows are no conversations that can be trained on" if bad else "there are no rows",
            why=f"{bad} of {bad + good} rows cannot be read; {first_problem}" if bad else "",
            hint="look at them: `python -m trainer show PATH`",
        )
