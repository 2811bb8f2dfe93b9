"""Pretraining: predict every next token of a corpus, in an order that is a pure function of the seed.

Sample `i` of a run is one row of one source, whatever the number of ranks and the size of a micro-batch. Optimizer
step `s` is made of the samples [s·G, (s+1)·G), G being the global batch size; so where the stream stands is one
integer.
"""

# B = sequences, T = tokens

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.config import RunConfig
from trainer.console import Console
from trainer.data import Mixture, Sampler, ShardSet
from trainer.data.rows import isolation
from trainer.errors import CheckpointError, DataError
from trainer.loop.distributed import World
from trainer.preparing import prepare_data, summary
from trainer.quoting import shown
from trainer.stages.base import LossOutput
from trainer.tokenizer import Tokenizer

_MANY_EPOCHS = 4
"""Muennighoff et al. 2023: up to four epochs are nearly as good as fresh text, later ones lose their worth."""


@dataclass(frozen=True)
class TokenBatch:
    """Rows of tokens and what follows each of them."""

    ids_BT: Tensor
    labels_BT: Tensor
    positions_BT: Tensor | None = None
    """Where the rows are isolated documents: the place of each token in its document."""
    documents_BT: Tensor | None = None
    """And which document of its row it belongs to; tokens see those of their own alone."""
    sample_ids: tuple[int, ...] = ()
    """The numbers of the samples in the run; none in validation."""

    @property
    def num_units(self) -> int:
        return self.labels_BT.numel()

    @property
    def num_tokens(self) -> int:
        return self.ids_BT.numel()


class PretrainStage:
    """Next-token prediction over the rows of a mixture."""

    name = "pretrain"
    samples_from_policy = False

    def __init__(
        self, config: RunConfig, data: Mixture | ShardSet, *, rank: int, num_processes: int, device: torch.device
    ) -> None:
        data = data if isinstance(data, Mixture) else Mixture.of_one(data)
        data.require_vocabulary(config.model.vocab_size)
        self.tokenizer: Tokenizer = data.load_tokenizer()
        self._config, self._data = config, data
        self._rank, self._num_processes, self._device = rank, num_processes, device
        aligned = config.data.rows == "aligned"
        self._train = Sampler(data, "train", config.seq_len, aligned=aligned)
        self._val = Sampler(data, "val", config.seq_len, aligned=aligned)
        self._next_sample = 0
        _require_rows(self._train, num_processes)

    def batches(self, policy: nn.Module) -> Iterator[TokenBatch]:
        micro = self._config.train.micro_batch_size
        while True:
            first = self._next_sample + self._rank * micro
            self._next_sample += self._num_processes * micro
            samples = range(first, first + micro)
            yield self._batch(self._train.shuffled(self._config.seed, samples), tuple(samples))

    def validation_batches(self) -> Iterator[TokenBatch]:
        """The first rows of the split; in the last round a rank may get fewer, or an empty batch."""
        micro = self._config.train.micro_batch_size
        end = min(self._config.eval.num_batches * micro, self._val.num_samples)
        for first in range(0, end, self._num_processes * micro):
            mine = first + self._rank * micro
            yield self._batch(self._val.in_sequence(range(mine, max(mine, min(mine + micro, end)))))

    def loss(self, policy: nn.Module, batch: TokenBatch) -> LossOutput:
        if batch.documents_BT is None:
            return LossOutput(policy(batch.ids_BT, batch.labels_BT).loss_sum)
        apart = {"positions_BT": batch.positions_BT, "documents_BT": batch.documents_BT}
        return LossOutput(policy(batch.ids_BT, batch.labels_BT, **apart).loss_sum)

    def state_dict(self) -> dict[str, Any]:
        return {"next_sample": self._next_sample, "data": self._data.identity}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["data"] != self._data.identity:
            names = ", ".join(self._config.data.datasets or [self._config.data.path])
            raise CheckpointError(
                f"the training data is not the one this run began with: {shown(names)}",
                why=f"its tokens hash to {self._data.identity[:12]}, those of the checkpoint to {state['data'][:12]}",
                hint="bring the old data back, or start a new run: `out_dir=runs/another`",
            )
        self._next_sample = int(state["next_sample"])

    def row_metrics(self, state: Mapping[str, Any]) -> dict[str, float]:
        """The shares the sources of a mixture have had so far, as `share/NAME`."""
        if len(self._data.parts) == 1:
            return {}
        return {f"share/{name}": share for name, share in self._train.shares(int(state["next_sample"])).items()}

    def notes(self) -> list[str]:
        """What somebody who starts this run should know about its data."""
        samples = self._config.train.max_steps * self._config.train.global_batch_size
        notes = [
            f"data {shown(name)} will be gone through {epochs:.1f} times"
            + (f", more than the {_MANY_EPOCHS} that are worth it" if epochs > _MANY_EPOCHS else "")
            for name, epochs in self._train.epochs(samples).items()
            if epochs > (_MANY_EPOCHS if len(self._data.parts) == 1 else 1)
        ]
        if self._config.data.rows == "aligned":
            dropped = sum(rows.dropped_tokens for rows in self._train.parts)
            total = sum(rows.tokens for rows in self._train.parts)
            notes.append(f"rows begin with documents: {dropped / total:.0%} of the tokens do not fit and are dropped")
        return notes

    def _batch(self, rows: NDArray[np.int64], sample_ids: tuple[int, ...] = ()) -> TokenBatch:
        tokens = self._on_device(rows)
        ids_BT, labels_BT = tokens[:, :-1], tokens[:, 1:]
        if self._config.data.rows != "isolated":
            return TokenBatch(ids_BT, labels_BT, sample_ids=sample_ids)
        positions, documents = isolation(rows[:, :-1], self.tokenizer.eot_id)
        return TokenBatch(ids_BT, labels_BT, self._on_device(positions), self._on_device(documents), sample_ids)

    def _on_device(self, array: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor


def _require_rows(train: Sampler, num_processes: int) -> None:
    if train.num_rows < num_processes:
        raise DataError(
            "there are more processes than rows to train on",
            why=f"{num_processes} processes, and the training part has {train.num_rows} rows",
            hint="start fewer processes, give more text, or take shorter rows: `data.seq_len=...`",
        )


def open_pretrain(config: RunConfig, world: World, console: Console) -> PretrainStage:
    """The stage with its corpus prepared in `out_dir/data`, which one rank does while the others wait."""
    data = world.first_then_all(lambda: prepare_data(config.data, Path(config.out_dir) / "data", console))
    console.say(summary(data))

    def stage() -> PretrainStage:
        return PretrainStage(config, data, rank=world.rank, num_processes=world.num_processes, device=world.device)

    opened = world.on_all(stage)
    for note in opened.notes():
        console.say(note)
    return opened
