"""Several conversations in one row, none of which sees another: fewer padded tokens, the same loss.

First-fit decreasing, in an order that depends on the lengths alone. Positions begin anew with each conversation and
`documents` number them, so that attention stays inside; what pads a row is a document of its own and is never learnt.
"""

# B = rows, T = tokens

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.chats.encoding import IGNORE_INDEX, Encoded

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PackedRows:
    """Rows of one width."""

    ids_BT: Ints
    labels_BT: Ints
    """What follows each id where that is learnt, else IGNORE_INDEX."""
    positions_BT: Ints
    documents_BT: Ints
    """Numbers of the conversations in a row, from 0 on."""

    @property
    def num_units(self) -> int:
        """Labels that are learnt."""
        return int((self.labels_BT != IGNORE_INDEX).sum())


def packed_bins(lengths: Sequence[int], seq_len: int) -> list[list[int]]:
    """Which conversations go into which row: each at most `seq_len` inputs long (its ids less one)."""
    # `room` is sorted; taking the last bin with room enough is best fit, found by bisection.
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        inputs = lengths[index] - 1
        assert 0 < inputs <= seq_len, (inputs, seq_len)
        place = bisect.bisect_left(room, (inputs, -1))
        if place == len(room):
            bins.append([index])
            bisect.insort(room, (seq_len - inputs, len(bins) - 1))
        else:
            left, number = room.pop(place)
            bins[number].append(index)
            bisect.insort(room, (left - inputs, number))
    return bins


def packed_rows(rows: Sequence[Sequence[Encoded]], pad_id: int, width: int | None = None) -> PackedRows:
    """The conversations of each row side by side, padded to `width`, or to the longest row."""
    widest = max((sum(len(each) - 1 for each in row) for row in rows), default=0)
    shape = (len(rows), width or widest)
    ids = np.full(shape, pad_id, dtype=np.int64)
    labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
    positions, documents = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for row, conversations in enumerate(rows):
        start = 0
        for number, each in enumerate(conversations):
            end = start + len(each) - 1
            ids[row, start:end] = each.ids[:-1]
            labels[row, start:end] = np.where(each.is_trained[1:], each.ids[1:], IGNORE_INDEX)
            positions[row, start:end] = np.arange(end - start)
            documents[row, start:end] = number
            start = end
        documents[row, start:] = len(conversations)
        positions[row, start:] = np.arange(shape[1] - start)
    return PackedRows(ids, labels, positions, documents)
