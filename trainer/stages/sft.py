"""Supervised fine-tuning: predict the assistant's tokens of conversations.

The loss is a sum over the learnt tokens, divided once by their number over all ranks and micro-batches: a long answer
weighs what its tokens weigh, however the rows fall together. With packing, several conversations share a row and none
sees another. Sample `i` of a run is a row, in an order that is a pure function of the seed.
"""

# B = rows, T = tokens

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.chats.dataset import ChatData, load_chats
from trainer.chats.encoding import Encoded, counts_text
from trainer.chats.hub_template import chosen_template
from trainer.chats.packing import packed_bins, packed_rows
from trainer.chats.rows import read_rows, rows_text
from trainer.config import RunConfig
from trainer.console import Console
from trainer.errors import CheckpointError, DataError
from trainer.loop.distributed import World
from trainer.quoting import shown
from trainer.stages.alike import alike
from trainer.stages.base import LossOutput
from trainer.tokenizer import Tokenizer, open_tokenizer
from trainer.tokenizer.special import PAD


@dataclass(frozen=True)
class ChatBatch:
    """Rows of conversations, and of each token what should follow, where that is learnt."""

    ids_BT: Tensor
    labels_BT: Tensor
    positions_BT: Tensor
    documents_BT: Tensor
    num_units: int
    sample_ids: tuple[int, ...] = ()

    @property
    def num_tokens(self) -> int:
        return self.ids_BT.numel()


class SftStage:
    """Next-token prediction over the learnt part of conversations."""

    name = "sft"
    samples_from_policy = False

    def __init__(
        self,
        config: RunConfig,
        data: ChatData,
        tokenizer: Tokenizer,
        *,
        rank: int,
        num_processes: int,
        device: torch.device,
    ) -> None:
        self.tokenizer = tokenizer
        self._config, self._data = config, data
        self._rank, self._num_processes, self._device = rank, num_processes, device
        self._train = rows_of(data.train, config.seq_len, packing=config.sft.packing)
        self._val = rows_of(data.val, config.seq_len, packing=config.sft.packing)
        self._pad_id = tokenizer.special_ids.get(PAD, tokenizer.eot_id)  # never learnt, whatever it is
        self._next_sample = 0
        if len(self._train) < num_processes:
            raise DataError(
                "there are more processes than rows to train on",
                why=f"{num_processes} processes, and the conversations fill {len(self._train)} rows",
                hint="start fewer processes, or give more conversations",
            )

    def batches(self, policy: nn.Module) -> Iterator[ChatBatch]:
        micro, step = self._config.train.micro_batch_size, self._config.train.global_batch_size
        lengths = np.array([sum(map(len, row)) for row in self._train])
        while True:
            at = self._next_sample + self._rank * micro
            self._next_sample += self._num_processes * micro
            samples, places = alike(self._config.seed, at, micro, step, lengths)
            yield self._batch([self._train[place] for place in places], samples)

    def validation_batches(self) -> Iterator[ChatBatch]:
        """The first rows; in the last round a rank may get fewer, or an empty batch."""
        micro = self._config.train.micro_batch_size
        end = min(self._config.eval.num_batches * micro, len(self._val))
        for first in range(0, end, self._num_processes * micro):
            mine = first + self._rank * micro
            yield self._batch(self._val[mine : max(mine, min(mine + micro, end))])

    def loss(self, policy: nn.Module, batch: ChatBatch) -> LossOutput:
        apart = {"positions_BT": batch.positions_BT, "documents_BT": batch.documents_BT}
        given: dict[str, Any] = {"num_labels": batch.num_units, **(apart if self._config.sft.packing else {})}
        return LossOutput(policy(batch.ids_BT, batch.labels_BT, **given).loss_sum)

    def state_dict(self) -> dict[str, Any]:
        return {"next_sample": self._next_sample, "data": self._data.identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["data"] != self._data.identity:
            raise CheckpointError(
                f"the conversations are not the ones this run began with: {shown(self._config.data.path)}",
                why=f"they hash to {self._data.identity[:12]}, those of the checkpoint to {state['data'][:12]}",
                hint="bring the old data back, or start a new run: `out_dir=runs/another`",
            )
        self._next_sample = int(state["next_sample"])

    def notes(self) -> list[str]:
        """What somebody who starts this run should know about its data."""
        data, rows = self._data, len(self._train)
        learnt = sum(each.num_trained for each in data.train)
        read = sum(len(each) - 1 for each in data.train)
        return [
            f"conversations {rows_text(self._config.data)}: `{data.format}` rows as `{data.template}`, "
            f"{counts_text(data.counts)}",
            f"{len(data.train):,} to train on, in {rows:,} rows of {self._config.seq_len}; {len(data.val):,} validate",
            f"{learnt:,} of {read:,} tokens are learnt",
        ]

    def _batch(self, rows: Sequence[Sequence[Encoded]], samples: tuple[int, ...] = ()) -> ChatBatch:
        packed = packed_rows(rows, self._pad_id)
        return ChatBatch(
            self._on_device(packed.ids_BT),
            self._on_device(packed.labels_BT),
            self._on_device(packed.positions_BT),
            self._on_device(packed.documents_BT),
            packed.num_units,
            samples,
        )

    def _on_device(self, array: Any) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor


def rows_of(conversations: Sequence[Encoded], seq_len: int, *, packing: bool) -> list[list[Encoded]]:
    """What goes into each row."""
    if not packing:
        return [[each] for each in conversations]
    bins = packed_bins([len(each) for each in conversations], seq_len)
    return [[conversations[index] for index in row] for row in bins]


def open_sft(config: RunConfig, world: World, console: Console) -> SftStage:
    """The stage with its conversations read and encoded; every rank reads them. Raises DataError."""

    def stage() -> SftStage:
        tokenizer = open_tokenizer(config.data.tokenizer)
        data = load_chats(
            read_rows(config.data),
            tokenizer,
            chosen_template(config.sft.template, tokenizer),
            seq_len=config.seq_len,
            val_fraction=config.data.val_fraction,
            train_on_all=config.sft.train_on == "all",
        )
        return SftStage(
            config, data, tokenizer, rank=world.rank, num_processes=world.num_processes, device=world.device
        )

    opened = world.on_all(stage)
    for line in opened.notes():
        console.say(line)
    return opened
