"""Pairs as one batch: the chosen answers, then the rejected ones, so that one forward serves both."""

# P = pairs, B = 2 P rows, T = tokens

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.chats.packing import packed_rows
from trainer.chats.pairs import EncodedPair
from trainer.models.branched import BranchedRows, branched_rows, label_logps, on_device


@dataclass(frozen=True)
class PairBatch:
    """P pairs in 2 P rows; padded on the right, which causal attention does not see."""

    ids_BT: Tensor
    labels_BT: Tensor
    """The answer's ids, shifted; IGNORE_INDEX elsewhere."""
    pairs: tuple[int, ...]
    """Which pairs of the split."""
    sample_ids: tuple[int, ...] = ()
    branched: BranchedRows | None = None
    """The same, each pair's prompt once: always, so that policy and reference are rounded alike."""

    @property
    def num_units(self) -> int:
        return len(self.pairs)

    @property
    def num_tokens(self) -> int:
        return self.ids_BT.numel() if self.branched is None else self.branched.ids_BS.numel()


@dataclass(frozen=True)
class AnswerLogps:
    """What a policy makes of both answers, summed over their tokens, and the numbers of those."""

    chosen_P: Tensor
    rejected_P: Tensor
    chosen_tokens_P: Tensor
    rejected_tokens_P: Tensor

    @property
    def chosen_mean_P(self) -> Tensor:
        return self.chosen_P / self.chosen_tokens_P

    @property
    def rejected_mean_P(self) -> Tensor:
        return self.rejected_P / self.rejected_tokens_P


def pair_batch(
    pairs: Sequence[EncodedPair], places: Sequence[int], pad_id: int, device: torch.device, samples: Sequence[int] = ()
) -> PairBatch:
    """The pairs at `places`."""
    chosen = [[pairs[place].chosen] for place in places]
    rejected = [[pairs[place].rejected] for place in places]
    rows = packed_rows([*chosen, *rejected], pad_id)
    sides = [(pair, len(places) + pair) for pair in range(len(places))]
    branched = on_device(branched_rows(rows.ids_BT, rows.labels_BT, sides, pad_id, always=True), device)
    ids_BT, labels_BT = (torch.from_numpy(part).to(device) for part in (rows.ids_BT, rows.labels_BT))
    return PairBatch(ids_BT, labels_BT, tuple(places), tuple(samples), branched)


def answer_logps(policy: nn.Module, batch: PairBatch) -> AnswerLogps:
    """One forward through the wrapped policy."""
    logps_B = label_logps(policy, batch.ids_BT, batch.labels_BT, batch.branched).sum(-1)
    tokens_B = (batch.labels_BT >= 0).sum(-1)
    return AnswerLogps(*logps_B.chunk(2), *tokens_B.chunk(2))


def val_places(micro: int, num_batches: int, num_pairs: int, rank: int, num_processes: int) -> Iterator[range]:
    """A rank's part of the first validation pairs, as many rounds on every rank; the last may be empty."""
    end = min(num_batches * micro, num_pairs)
    for first in range(0, end, num_processes * micro):
        mine = first + rank * micro
        yield range(min(mine, end), min(mine + micro, end))
