"""Rows of a prepared corpus: what a model is trained on.

Plainly, row i of a split has the tokens i·T … i·T + T: T inputs, and the same
shifted by one as labels, so that every token but the first is predicted
exactly once per epoch. Aligned rows each begin with a document instead, and
what of the last one does not fit is dropped. Which row comes when is for
order.py.
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

    def __init__(self, shards: ShardSet, split: Split, seq_len: int, *, aligned: bool = False) -> None:
        assert seq_len > 0, seq_len
        self._shards, self._split, self._seq_len = shards, split, seq_len
        self._first = 0 if split == "train" else shards.train_tokens
        self.tokens = shards.train_tokens if split == "train" else shards.val_tokens
        self._starts = _aligned_starts(shards, self._first, self._first + self.tokens, seq_len) if aligned else None
        self.num_rows = (self.tokens - 1) // seq_len if self._starts is None else len(self._starts)
        if self.num_rows < 1:
            raise self._too_short()

    @property
    def dropped_tokens(self) -> int:
        """Tokens that are the label of no row, the very first aside."""
        return self.tokens - 1 - self.num_rows * self._seq_len

    def rows(self, indices: ArrayLike) -> NDArray[np.int64]:
        """The rows of these indices, (n, seq_len + 1): inputs `[:, :-1]`, labels `[:, 1:]`."""
        wanted = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        assert ((wanted >= 0) & (wanted < self.num_rows)).all(), "a row that does not exist"
        rows = np.empty((len(wanted), self._seq_len + 1), dtype=np.int64)
        starts = self._first + wanted * self._seq_len if self._starts is None else self._starts[wanted]
        for row, start in zip(rows, starts.tolist(), strict=True):
            self._shards.copy_into(row, start)
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
        aligned = " that begins with a document" if self._starts is not None else ""
        return DataError(
            f"the corpus is shorter than one sequence: {shown(self._shards.root)}",
            why=f"the {part} part has {self.tokens} tokens, one sequence{aligned} needs {self._seq_len + 1}",
            hint=" or ".join([*hints, "more text: `data.path=FILE_OR_FOLDER`"]),
        )


def _aligned_starts(shards: ShardSet, first: int, end: int, seq_len: int) -> NDArray[np.int64]:
    """Where the rows of a split begin: each at the first document that begins where the row before ends, or later."""
    begins = shards.document_ends + 1
    begins = np.concatenate([np.zeros(1, np.int64), begins])
    begins = begins[(begins >= first) & (begins + seq_len < end)]
    following = np.searchsorted(begins, begins + seq_len).tolist()
    chosen, document = [], 0
    while document < len(begins):
        chosen.append(document)
        document = following[document]
    starts: NDArray[np.int64] = begins[chosen] if chosen else begins[:0]
    return starts


def isolation(ids_BT: NDArray[np.int64], eot_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The position of every token in its document, and the number of that document in its row, both (B, T).

    As an input, end-of-text belongs to the document that follows it: so the first token of a document is predicted
    from end-of-text alone, which is how a text is generated from nothing, and never from the document before.
    """
    begins_BT = ids_BT == eot_id
    places_T = np.arange(ids_BT.shape[1])
    newest_BT = np.maximum.accumulate(np.where(begins_BT, places_T, 0), axis=1)
    return places_T - newest_BT, np.cumsum(begins_BT, axis=1)
