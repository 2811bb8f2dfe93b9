"""Which rows a run sees: sample i of the run, a pure function of (seed, i), whoever asks and however often."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from trainer.data.mixture import Mixture
from trainer.data.order import order
from trainer.data.rows import Split, TokenRows

_SEED_STRIDE = 0x9E3779B1
"""Between the orders of the sources of a mixture; the first one keeps the run's own seed."""
_BLOCK = 1024
"""Samples whose order is computed at once."""


class Sampler:
    """The rows of one split of a mixture, by the number of the sample."""

    def __init__(self, mixture: Mixture, split: Split, seq_len: int, *, aligned: bool = False) -> None:
        self._mixture = mixture
        self.parts = [TokenRows(part.shards, split, seq_len, aligned=aligned) for part in mixture.parts]
        self.num_rows = sum(rows.num_rows for rows in self.parts)
        self.num_samples = mixture.samples_within([rows.num_rows for rows in self.parts])
        """How many there are before some source has to begin again."""
        self._orders: dict[tuple[int, int], tuple[int, list[int]]] = {}

    def shuffled(self, seed: int, samples: Iterable[int]) -> NDArray[np.int64]:
        """The rows of these samples in a training: every epoch of every source is another permutation."""
        places = map(self._place, samples)
        return self._read((part, self._row(seed, part, number)) for part, number in places)

    def _place(self, sample: int) -> tuple[int, int]:
        return self._mixture.place(sample) if len(self.parts) > 1 else (0, sample)

    def _row(self, seed: int, part: int, number: int) -> int:
        """`order`, which takes as long for one sample as for a thousand, asked for many at once."""
        key, block = (seed, part), number // _BLOCK
        if key not in self._orders or self._orders[key][0] != block:
            numbers = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
            rows = order(seed + part * _SEED_STRIDE, numbers, self.parts[part].num_rows)
            self._orders[key] = (block, rows.tolist())
        return self._orders[key][1][number % _BLOCK]

    def in_sequence(self, samples: Iterable[int]) -> NDArray[np.int64]:
        """The rows of these samples in a validation: from the beginning of every source."""
        return self._read(map(self._place, samples))

    def _read(self, wanted: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
        if len(self.parts) == 1:
            return self.parts[0].rows(np.fromiter((row for _, row in wanted), np.int64))
        rows = [self.parts[part].rows(row) for part, row in wanted]
        return np.concatenate(rows) if rows else self.parts[0].rows(np.array([], np.int64))

    def shares(self, samples: int) -> dict[str, float]:
        """The share every source has had of the first `samples` samples, by name."""
        counts = self._mixture.counts(samples)
        return {
            part.name: count / samples if samples else 0.0
            for part, count in zip(self._mixture.parts, counts, strict=True)
        }

    def epochs(self, samples: int) -> dict[str, float]:
        """How often every source has been gone through after so many samples, by name."""
        counts = zip(self._mixture.parts, self.parts, self._mixture.counts(samples), strict=True)
        return {part.name: count / rows.num_rows for part, rows, count in counts}
