"""Segments to ids, with what of them is learnt; and what to do with a conversation that is too long.

| rule | then |
|---|---|
| nothing of it is learnt | refused |
| longer than a row, and something learnt would remain | cut at the end |
| longer than a row, and nothing learnt would remain | refused |

Each refusal and each cut is counted; the counts are said before the training begins.
"""

# T = tokens

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.chats.template import Segment
from trainer.errors import DataError
from trainer.tokenizer import END_OF_TEXT, Tokenizer

IGNORE_INDEX = -100


@dataclass(frozen=True)
class Encoded:
    """One conversation."""

    ids: NDArray[np.int32]
    is_trained: NDArray[np.bool_]
    """Of each id, whether it is learnt, as something to be predicted."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_trained(self) -> int:
        """Ids that are learnt; the first of a row has nothing before it and never is."""
        return int(self.is_trained[1:].sum())


def encode_segments(segments: Sequence[Segment], tokenizer: Tokenizer) -> Encoded:
    """The ids of each segment, one after the other: what is learnt never shares a token with what is not."""
    ids: list[int] = []
    trained: list[bool] = []
    for segment in segments:
        new = [special_id(segment.text, tokenizer)] if segment.is_special else tokenizer.encode(segment.text)
        ids += new
        trained += [segment.is_trained] * len(new)
    return Encoded(np.asarray(ids, dtype=np.int32), np.asarray(trained, dtype=np.bool_))


def special_id(token: str, tokenizer: Tokenizer) -> int:
    """The id of a special token. What ends a text has another name in each tokenizer."""
    return tokenizer.eot_id if token == END_OF_TEXT else tokenizer.special_ids[token]


def fitted(rows: Iterable[Encoded], seq_len: int, counts: Counter[str]) -> list[Encoded]:
    """The rows that can be learnt from, none longer than `seq_len + 1` ids. `counts` hears of the others.

    A row of `seq_len` inputs has one id more, since each input predicts the next. Raises DataError where none is left.
    """
    kept = []
    for row in rows:
        counts["rows"] += 1
        if not row.num_trained:
            counts["nothing to learn"] += 1
            continue
        short = Encoded(row.ids[: seq_len + 1], row.is_trained[: seq_len + 1])
        if not short.num_trained:
            counts["too long: nothing to learn is left"] += 1
            continue
        counts["cut"] += len(short) < len(row)
        kept.append(short)
    if not kept:
        told = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        raise DataError(
            "no conversation can be learnt from", why=told or "there is none", hint="for long ones: `data.seq_len=...`"
        )
    return kept


def counts_text(counts: Counter[str]) -> str:
    """`660 rows, 3 cut, 1 nothing to learn`"""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
