"""A stage whose batches have unequal numbers of units, which is what mean-of-means gets wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from trainer.config import TokenizerConfig
from trainer.stages import LossOutput
from trainer.stages.pretrain import TokenBatch
from trainer.tokenizer import open_tokenizer


class RaggedBatch(TokenBatch):
    """Some labels are not to be predicted."""

    @property
    def num_units(self) -> int:
        return int((self.labels_BT != -100).sum())


class RaggedStage:
    """Eight fixed sequences of 2 to 30 units, in micro-batches of any size; calls `on_validation` when validating."""

    name = "ragged"
    samples_from_policy = False

    def __init__(self, micro_batch_size: int, on_validation: Callable[[], None] = lambda: None) -> None:
        self.tokenizer = open_tokenizer(TokenizerConfig(kind="bytes"))
        self._micro, self._on_validation = micro_batch_size, on_validation
        self._next = 0
        generator = torch.Generator().manual_seed(5)
        self._tokens = torch.randint(0, 256, (8, 33), generator=generator)

    def batches(self, policy: nn.Module) -> Iterator[RaggedBatch]:
        while True:
            first = self._next % 8
            self._next += self._micro
            yield self._batch(first, first + self._micro)

    def validation_batches(self) -> Iterator[RaggedBatch]:
        for first in (0, 4):
            self._on_validation()
            yield self._batch(first, first + 4)

    def loss(self, policy: nn.Module, batch: RaggedBatch) -> LossOutput:
        loss_sum = policy(batch.ids_BT, batch.labels_BT).loss_sum
        return LossOutput(loss_sum, {"twice_loss": 2 * loss_sum.detach()})

    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._next = state["next"]

    def _batch(self, first: int, end: int) -> RaggedBatch:
        labels = self._tokens[first:end, 1:].clone()
        for row, number in enumerate(range(first, end)):
            labels[row, 2 + 4 * number :] = -100
        return RaggedBatch(self._tokens[first:end, :-1], labels)
