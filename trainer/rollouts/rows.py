"""A sampled completion as something to learn from: ids, which of them were sampled, and numbers for each.

Rows are padded on the right, so that every id stands at its own position, counted from the row's first.
"""

# B = rows, T = tokens

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.models.branched import BranchedRows, branched_rows, on_device
from trainer.models.loss import IGNORE_INDEX

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RolloutRow:
    """One prompt with its completion."""

    ids: NDArray[np.int32]
    is_sampled: NDArray[np.bool_]
    """Of each id, whether the policy drew it, the one that ended it included; not those of a prompt or a tool."""
    sample: int
    """The number of its prompt among all that were ever asked."""
    is_learnt: bool = True
    """False where it holds no signal: it is left out of the loss."""
    tokens: Mapping[str, Floats] = field(default_factory=dict)
    """Numbers by name, each as long as `ids` less one: the first belongs to what follows the first id."""

    @property
    def num_sampled(self) -> int:
        return int(self.is_sampled[1:].sum())

    def having(self, *, is_learnt: bool | None = None, **tokens: Floats) -> RolloutRow:
        """The same with more numbers; one number for all tokens is spread over those that were sampled."""
        learnt = self.is_learnt if is_learnt is None else is_learnt
        return replace(self, is_learnt=learnt, tokens={**self.tokens, **tokens})

    def spread(self, number: float) -> Floats:
        """One number at each sampled token, 0 elsewhere."""
        numbers: Floats = np.where(self.is_sampled[1:], np.float32(number), np.float32(0))
        return numbers

    def as_json(self) -> dict[str, Any]:
        """Gives the row back exactly."""
        return {
            "ids": _text(self.ids),
            "is_sampled": _text(self.is_sampled),
            "sample": self.sample,
            "is_learnt": self.is_learnt,
            "tokens": {name: _text(numbers) for name, numbers in self.tokens.items()},
        }


def row_of(state: Mapping[str, Any]) -> RolloutRow:
    """What `as_json` gave."""
    return RolloutRow(
        np.frombuffer(base64.b64decode(state["ids"]), np.int32),
        np.frombuffer(base64.b64decode(state["is_sampled"]), np.bool_),
        state["sample"],
        state["is_learnt"],
        {name: np.frombuffer(base64.b64decode(text), np.float32) for name, text in state["tokens"].items()},
    )


def _text(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


@dataclass(frozen=True)
class PaddedRows:
    """Rows side by side."""

    ids_BT: Tensor
    labels_BT: Tensor
    """What follows each id where that was sampled, else IGNORE_INDEX."""
    tokens: Mapping[str, Tensor]
    """(B, T) in fp32; 0 where a row ends before."""
    branched: BranchedRows | None
    """The same, each prompt once, where that is less work."""


def padded_rows(rows: Sequence[RolloutRow], pad_id: int, device: torch.device) -> PaddedRows:
    """Rows of one width, that of the longest."""
    shape = (len(rows), max((len(row.ids) - 1 for row in rows), default=0))
    ids = np.full(shape, pad_id, dtype=np.int64)
    labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
    tokens = {name: np.zeros(shape, dtype=np.float32) for name in (rows[0].tokens if rows else ())}
    for place, row in enumerate(rows):
        end = len(row.ids) - 1
        ids[place, :end] = row.ids[:-1]
        labels[place, :end] = np.where(row.is_sampled[1:], row.ids[1:], IGNORE_INDEX)
        for name, numbers in row.tokens.items():
            tokens[name][place, :end] = numbers
    groups: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row.sample, []).append(place)
    branched = on_device(branched_rows(ids, labels, list(groups.values()), pad_id), device)
    numbers_BT = {name: torch.from_numpy(numbers).to(device) for name, numbers in tokens.items()}
    return PaddedRows(torch.from_numpy(ids).to(device), torch.from_numpy(labels).to(device), numbers_BT, branched)
