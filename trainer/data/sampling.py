"""Which rows a run sees: sample i of the run, a pure function of (seed, i), whoever asks and however often."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.mixture import Mixture
from trainer.data.order import order
from trainer.data.rows import Split, TokenRows

_SEED_STRIDE = 0x9E3779B1
"""Between the orders of the sources of a mixture; the first one keeps the run's own seed."""


class Sampler:
    """The rows of one split of a mixture, by the number of the sample."""

    def __init__(self, mixture: Mixture, split: Split, seq_len: int, *, aligned: bool = False) -> None:
        self._mixture = mixture
        self.parts = [TokenRows(part.shards, split, seq_len, aligned=aligned) for part in mixture.parts]
        self.num_rows = sum(rows.num_rows for rows in self.parts)
        self.num_samples = mixture.samples_within([rows.num_rows for rows in self.parts])
        """How many there are before some source has to begin again."""

    def shuffled(self, seed: int, samples: Iterable[int]) -> NDArray[np.int64]:
        """The rows of these samples in a training: every epoch of every source is another permutation."""
        if len(self.parts) == 1:
            rows = self.parts[0]
            return rows.rows(order(seed, np.asarray(list(samples), dtype=np.int64), rows.num_rows))
        places = [self._mixture.place(sample) for sample in samples]
        return self._read(
            (part, int(order(seed + part * _SEED_STRIDE, number, self.parts[part].num_rows)[0]))
            for part, number in places
        )

    def in_sequence(self, samples: Iterable[int]) -> NDArray[np.int64]:
        """The rows of these samples in a validation: from the beginning of every source."""
        if len(self.parts) == 1:
            return self.parts[0].rows(np.asarray(list(samples), dtype=np.int64))
        return self._read(self._mixture.place(sample) for sample in samples)

    def _read(self, wanted: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
        rows = [self.parts[part].rows(row) for part, row in wanted]
        return np.concatenate(rows) if rows else self.parts[0].rows(_NONE)

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


_NONE: NDArray[Any] = np.array([], dtype=np.int64)
