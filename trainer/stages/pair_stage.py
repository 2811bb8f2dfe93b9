"""What the stages over pairs share: where their batches come from, and where the stream stands.

Sample `i` of a run is a pair, in an order that is a pure function of the seed; so the stream is one integer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from trainer.chats.encoding import counts_text
from trainer.chats.hub_template import chosen_template
from trainer.chats.pairs import PairData, load_pairs
from trainer.chats.rows import read_rows, rows_text
from trainer.config import RunConfig
from trainer.errors import CheckpointError
from trainer.quoting import shown
from trainer.stages.alike import alike
from trainer.stages.preference_batch import PairBatch, pair_batch, val_places
from trainer.tokenizer import Tokenizer, open_tokenizer
from trainer.tokenizer.special import PAD


class PairStream:
    """Batches of pairs for one rank."""

    samples_from_policy = False

    def __init__(
        self,
        config: RunConfig,
        data: PairData,
        tokenizer: Tokenizer,
        *,
        rank: int,
        num_processes: int,
        device: torch.device,
    ) -> None:
        self.tokenizer, self.config, self.data = tokenizer, config, data
        self._rank, self._num_processes, self._device = rank, num_processes, device
        self._lengths = np.array([max(len(pair.chosen), len(pair.rejected)) for pair in data.train])
        self._next_sample = 0

    def batches(self, policy: nn.Module) -> Iterator[PairBatch]:
        micro, step = self.config.train.micro_batch_size, self.config.train.global_batch_size
        while True:
            at = self._next_sample + self._rank * micro
            self._next_sample += self._num_processes * micro
            samples, places = alike(self.config.seed, at, micro, step, self._lengths)
            yield pair_batch(self.data.train, places, pad_id_of(self.tokenizer), self._device, samples)

    def validation_batches(self) -> Iterator[PairBatch]:
        """The first pairs; in the last round a rank may get fewer, or an empty batch."""
        micro, rounds = self.config.train.micro_batch_size, self.config.eval.num_batches
        for places in val_places(micro, rounds, len(self.data.val), self._rank, self._num_processes):
            yield pair_batch(self.data.val, list(places), pad_id_of(self.tokenizer), self._device)

    def state_dict(self) -> dict[str, Any]:
        return {"next_sample": self._next_sample, "data": self.data.identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["data"] != self.data.identity:
            raise CheckpointError(
                f"the pairs are not the ones this run began with: {shown(self.config.data.path)}",
                why=f"they hash to {self.data.identity[:12]}, those of the checkpoint to {state['data'][:12]}",
                hint="bring the old data back, or start a new run: `out_dir=runs/another`",
            )
        self._next_sample = int(state["next_sample"])

    def note(self) -> str:
        """What somebody who starts this run should know about its data."""
        data = self.data
        return (
            f"pairs {rows_text(self.config.data)}: `{data.format}` rows as `{data.template}`, "
            f"{counts_text(data.counts)}; "
            f"{len(data.train):,} to train on, {len(data.val):,} validate"
        )


def pair_data(config: RunConfig, tokenizer: Tokenizer) -> PairData:
    """The pairs of a configuration. Raises DataError."""
    return load_pairs(
        read_rows(config.data),
        tokenizer,
        chosen_template(config.sft.template, tokenizer),
        seq_len=config.seq_len,
        val_fraction=config.data.val_fraction,
    )


def tokenizer_of(config: RunConfig) -> Tokenizer:
    """The tokenizer of a configuration. Raises DataError."""
    return open_tokenizer(config.data.tokenizer)


def pad_id_of(tokenizer: Tokenizer) -> int:
    """What fills a row; never learnt, whatever it is."""
    return tokenizer.special_ids.get(PAD, tokenizer.eot_id)
