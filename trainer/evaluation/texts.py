"""Loss on text: per token, as perplexity, and per byte, which alone compares models with different tokenizers.

A document begins after the model's start id, so each of its tokens is predicted once. Windows lie side by side and do
not overlap: a token has between none and `max_seq_len - 1` tokens of its document before it, as in training.
"""

# B = sequences, T = tokens, V = vocabulary

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F

from trainer.errors import DataError
from trainer.evaluation.models import MeasuredModel

IGNORE_INDEX = -100
TOKENS_PER_BATCH = 4096
"""As in continuations.py: the logits of a batch are the largest thing here."""


@dataclass(frozen=True)
class TextLoss:
    """What a model made of some text."""

    nats: float
    """Negative log-probability of all tokens together."""
    num_tokens: int
    num_bytes: int
    """Of the text in UTF-8."""

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.num_tokens

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.num_bytes


Window = tuple[Sequence[int], Sequence[int]]
"""Inputs, and what follows each of them."""


def text_loss(
    model: MeasuredModel, documents: Iterable[str], *, said: Callable[[int], None] = lambda tokens: None
) -> TextLoss:
    """Over all documents; empty ones count for nothing. `said` hears tokens done."""
    num_bytes = 0

    def windows() -> Iterator[Window]:
        nonlocal num_bytes
        for text in documents:
            num_bytes += len(text.encode("utf-8", "replace"))
            ids = [model.start_id, *model.encode(text)]
            for first in range(0, len(ids) - 1, model.max_seq_len):
                row = ids[first : first + model.max_seq_len + 1]
                yield row[:-1], row[1:]

    nats, num_tokens = windows_loss(model, windows(), said=said)
    return TextLoss(nats, num_tokens, num_bytes)


@torch.no_grad()
def windows_loss(
    model: MeasuredModel, windows: Iterator[Window], *, said: Callable[[int], None] = lambda tokens: None
) -> tuple[float, int]:
    """Nats and tokens of all windows. Raises DataError where there is none."""
    nats, num_tokens = 0.0, 0
    for batch in _batched(windows, max(1, TOKENS_PER_BATCH // model.max_seq_len)):
        batch_nats, batch_tokens = _loss(model, batch)
        nats, num_tokens = nats + batch_nats, num_tokens + batch_tokens
        said(num_tokens)
    if not num_tokens:
        raise DataError("there is no text to measure", hint="another `--data FILE_OR_FOLDER`")
    return nats, num_tokens


def _batched(windows: Iterator[Window], size: int) -> Iterator[list[Window]]:
    while batch := list(islice(windows, size)):
        yield batch


def _loss(model: MeasuredModel, batch: Sequence[Window]) -> tuple[float, int]:
    width = max(len(inputs) for inputs, _ in batch)
    ids_BT = torch.zeros((len(batch), width), dtype=torch.long)
    labels_BT = torch.full((len(batch), width), IGNORE_INDEX)
    for i, (inputs, labels) in enumerate(batch):
        ids_BT[i, : len(inputs)] = torch.tensor(inputs)
        labels_BT[i, : len(labels)] = torch.tensor(labels)
    nats = 0.0
    for row, labels_T in zip(model.logits(ids_BT), labels_BT, strict=True):  # one row in fp32 at a time
        labels_T = labels_T.to(row.device)
        nats += float(F.cross_entropy(row.float(), labels_T, reduction="sum", ignore_index=IGNORE_INDEX))
    return nats, int((labels_BT != IGNORE_INDEX).sum())
