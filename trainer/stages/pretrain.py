"""Pretraining: predict every next token of a corpus, in an order that is a pure function of the seed.

Sample `i` of a run is row `order(seed, i)` of the shards, whatever the number of ranks and the size of a
micro-batch. Optimizer step `s` is made of the samples [s·G, (s+1)·G), G being the global batch size; so where the
stream stands is one integer.
"""

# B = sequences, T = tokens

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.config import RunConfig
from trainer.console import Console
from trainer.data import ShardSet, TokenRows, order
from trainer.errors import CheckpointError
from trainer.loop.distributed import World
from trainer.preparing import prepare_data, summary
from trainer.quoting import shown
from trainer.stages.base import LossOutput
from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenBatch:
    """Rows of tokens and what follows each of them."""

    ids_BT: Tensor
    labels_BT: Tensor

    @property
    def num_units(self) -> int:
        return self.labels_BT.numel()

    @property
    def num_tokens(self) -> int:
        return self.ids_BT.numel()


class PretrainStage:
    """Next-token prediction over the rows of a shard set."""

    name = "pretrain"

    def __init__(
        self, config: RunConfig, shards: ShardSet, *, rank: int, num_processes: int, device: torch.device
    ) -> None:
        shards.require_vocabulary(config.model.vocab_size)
        self.tokenizer: Tokenizer = shards.load_tokenizer()
        self._config, self._shards = config, shards
        self._rank, self._num_processes, self._device = rank, num_processes, device
        self._train = TokenRows(shards, "train", config.model.max_seq_len)
        self._val = TokenRows(shards, "val", config.model.max_seq_len)
        self._next_sample = 0

    def batches(self, policy: nn.Module) -> Iterator[TokenBatch]:
        micro = self._config.train.micro_batch_size
        while True:
            first = self._next_sample + self._rank * micro
            self._next_sample += self._num_processes * micro
            samples = np.arange(first, first + micro)
            yield self._batch(self._train, order(self._config.seed, samples, self._train.num_rows))

    def validation_batches(self) -> Iterator[TokenBatch]:
        """The first rows of the split; in the last round a rank may get fewer, or an empty batch."""
        micro = self._config.train.micro_batch_size
        end = min(self._config.eval.num_batches * micro, self._val.num_rows)
        for first in range(0, end, self._num_processes * micro):
            mine = first + self._rank * micro
            yield self._batch(self._val, np.arange(mine, max(mine, min(mine + micro, end))))

    def loss(self, policy: nn.Module, batch: TokenBatch) -> LossOutput:
        return LossOutput(policy(batch.ids_BT, batch.labels_BT).loss_sum)

    def state_dict(self) -> dict[str, Any]:
        return {"next_sample": self._next_sample, "data": self._shards.identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["data"] != self._shards.identity:
            raise CheckpointError(
                f"the training data is not the one this run began with: {shown(self._config.data.path)}",
                why=f"its tokens hash to {self._shards.identity[:12]}, those of the checkpoint to {state['data'][:12]}",
                hint="bring the old data back, or start a new run: `out_dir=runs/another`",
            )
        self._next_sample = int(state["next_sample"])

    def _batch(self, rows: TokenRows, indices: np.ndarray[Any, np.dtype[np.int64]]) -> TokenBatch:
        tokens = torch.from_numpy(rows.rows(indices))
        if self._device.type == "cuda":
            tokens = tokens.pin_memory().to(self._device, non_blocking=True)
        return TokenBatch(tokens[:, :-1], tokens[:, 1:])


def open_pretrain(config: RunConfig, world: World, console: Console) -> PretrainStage:
    """The stage with its corpus prepared in `out_dir/data`, which one rank does while the others wait."""
    shards = world.first_then_all(lambda: prepare_data(config.data, Path(config.out_dir) / "data", console))
    console.say(summary(shards))

    def stage() -> PretrainStage:
        return PretrainStage(config, shards, rank=world.rank, num_processes=world.num_processes, device=world.device)

    return world.on_all(stage)
