"""Preference pairs, encoded: one prompt, two answers, and what was left out.

A pair that is too long loses the front of its prompt, both sides alike; the answers stay whole. An answer that does not
fit at all is refused. Both are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainer.chats.encoding import Encoded, encode_segments
from trainer.chats.formats import NotThatFormat, PairFormat, pair_format_of, preference_of
from trainer.chats.splitting import MOST_BAD_SHARE, held_out, identity_of
from trainer.chats.template import Template, answered
from trainer.errors import DataError
from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class EncodedPair:
    """Two conversations that differ in their answers, which alone are marked as learnt."""

    chosen: Encoded
    rejected: Encoded


@dataclass(frozen=True)
class PairData:
    """Encoded pairs, split by place: the last ones validate."""

    train: list[EncodedPair]
    val: list[EncodedPair]
    format: PairFormat
    template: Template
    counts: Counter[str]
    identity: str


def load_pairs(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Tokenizer,
    template: Template,
    *,
    seq_len: int,
    val_fraction: float,
) -> PairData:
    """Read, render, encode and fit every row. Raises DataError where too many are bad, or nothing is left."""
    counts: Counter[str] = Counter()
    kept: list[EncodedPair] = []
    format: PairFormat | None = None
    first_problem = ""
    for number, row in enumerate(rows, start=1):
        counts["rows"] += 1
        try:
            format = format or pair_format_of(row)
            pair = fitted_pair(_encoded(row, tokenizer, template), seq_len, counts)
        except NotThatFormat as problem:
            counts["bad"] += 1
            first_problem = first_problem or f"row {number}: {problem}"
            continue
        kept += [pair] if pair else []
    _require_good(counts, kept, first_problem)
    assert format is not None
    train, val = held_out(kept, val_fraction, "pairs")
    identity = identity_of(side for pair in kept for side in (pair.chosen, pair.rejected))
    return PairData(train, val, format, template, counts, identity)


def fitted_pair(pair: EncodedPair, seq_len: int, counts: Counter[str]) -> EncodedPair | None:
    """The pair with neither side longer than `seq_len + 1` ids; None where an answer leaves no room for a prompt."""
    over = max(len(pair.chosen), len(pair.rejected)) - (seq_len + 1)
    if over <= 0:
        return pair
    begins = [int(np.flatnonzero(side.is_trained)[0]) for side in (pair.chosen, pair.rejected)]
    if over >= min(begins):
        counts["an answer too long"] += 1
        return None
    counts["prompt cut"] += 1
    return EncodedPair(*(Encoded(side.ids[over:], side.is_trained[over:]) for side in (pair.chosen, pair.rejected)))


def _encoded(row: Mapping[str, Any], tokenizer: Tokenizer, template: Template) -> EncodedPair:
    pair = preference_of(row)
    sides = (encode_segments(answered(pair.prompt, side, template), tokenizer) for side in (pair.chosen, pair.rejected))
    encoded = EncodedPair(*sides)
    if not (encoded.chosen.num_trained and encoded.rejected.num_trained):
        raise NotThatFormat("an answer is no turn of the assistant")
    return encoded


def _require_good(counts: Counter[str], kept: list[EncodedPair], first_problem: str) -> None:
    if counts["bad"] > MOST_BAD_SHARE * counts["rows"] or not kept:
        told = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        raise DataError(
            "the rows are no pairs that can be trained on",
            why=f"{told}; {first_problem}".rstrip("; "),
            hint="look at them: `python -m trainer show PATH`; for long answers: `data.seq_len=...`",
        )
