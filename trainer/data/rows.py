"""Rows of a prepared corpus: what a model is trained on.

Row i of a split has the tokens i·T … i·T + T: T inputs, and the same shifted
by one as labels, so that every token but the first is predicted exactly once
per epoch. Which row comes when is for order.py.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainer.data.shards import ShardSet
from trainer.errors import DataError
from trainer.quoting import shown

Split = Literal["train", "val"]


class TokenRows:
    """The rows of one split, read on demand. Raises DataError where the split has not even one."""

    def __init__(self, shards: ShardSet, split: Split, seq_len: int) -> None:
        assert seq_len > 0, seq_len
        self._shards, self._split, self._seq_len = shards, split, seq_len
        self._first = 0 if split == "train" else shards.train_tokens
        self.tokens = shards.train_tokens if split == "train" else shards.val_tokens
        self.num_rows = (self.tokens - 1) // seq_len
        if self.num_rows < 1:
            raise self._too_short()

    def rows(self, indices: ArrayLike) -> NDArray[np.int64]:
        """The rows of these indices, (n, seq_len + 1): inputs `[:, :-1]`, labels `[:, 1:]`."""
        wanted = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        assert ((wanted >= 0) & (wanted < self.num_rows)).all(), "a row that does not exist"
        rows = np.empty((len(wanted), self._seq_len + 1), dtype=np.int64)
        for row, index in zip(rows, wanted.tolist(), strict=True):
            self._shards.copy_into(row, self._first + index * self._seq_len)
        # An id beyond the vocabulary would end as an assert inside a CUDA kernel, without a name.
        if rows.size and rows.max() >= self._shards.vocab_size:
            raise DataError(
                f"the shards in {shown(self._shards.root)} are damaged",
                why=f"a row has the id {rows.max()}, the vocabulary ends at {self._shards.vocab_size - 1}",
                hint=f"delete {shown(self._shards.root)} and prepare the corpus again",
            )
        return rows

    def _too_short(self) -> DataError:
        part = "training" if self._split == "train" else "validation"
        longest = max(self.tokens - 1, 0)
        hints = [f"`model.max_seq_len={longest}`"] if longest else []
        hints += ["a larger `data.val_fraction`"] if self._split == "val" else []
        return DataError(
            f"the corpus is shorter than one sequence: {shown(self._shards.root)}",
            why=f"the {part} part has {self.tokens} tokens, one sequence needs {self._seq_len + 1}",
            hint=" or ".join([*hints, "more text: `data.path=FILE_OR_FOLDER`"]),
        )
