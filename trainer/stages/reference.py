"""Log-probabilities of pairs under the reference, computed once: afterwards no second model is in memory.

The reference is where the policy began, `model.init_from`. What was computed lies in `out_dir/reference/`, named by a
hash of the pairs, the weights and the number format, so a resumed run reads it and another run does not.
"""

# P = pairs

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.chats.pairs import EncodedPair, PairData
from trainer.config import ModelConfig, RunConfig
from trainer.config.problems import ConfigError, Problem
from trainer.console import Console
from trainer.loop.distributed import World
from trainer.models.init_from import initial_weights
from trainer.models.language_model import LanguageModel
from trainer.models.quantized import base_model
from trainer.quoting import shown
from trainer.stages.preference_batch import answer_logps, pair_batch
from trainer.tokenizer import Tokenizer

Logps = NDArray[np.float32]
"""(P, 2): the chosen and the rejected answer of each pair, summed over their tokens."""


@dataclass(frozen=True)
class Reference:
    """Of both splits."""

    train: Logps
    val: Logps


def reference_of(
    config: RunConfig, data: PairData, tokenizer: Tokenizer, pad_id: int, world: World, console: Console
) -> Reference:
    """Read what was computed before, or compute it, each rank its part. Every rank calls this at the same time."""
    weights = world.on_all(lambda: initial_weights(_began_from(config), tokenizer.identity))
    path = Path(config.out_dir) / "reference" / f"{_key(data, weights, _numbers(config, world))}.npz"
    if not world.on_first(path.is_file):
        model = base_model(config, weights, world.device).eval()
        found = Reference(
            *(_computed(model, split, config, pad_id, world, console) for split in (data.train, data.val))
        )
        world.on_first(lambda: _save(path, found))
        console.say(f"reference: {len(found.train) + len(found.val):,} pairs under {shown(config.model.init_from)}")
    with np.load(path) as saved:
        return Reference(saved["train"], saved["val"])


def _began_from(config: RunConfig) -> ModelConfig:
    if config.model.init_from:
        return config.model
    raise ConfigError(
        [Problem("training configuration", "model.init_from", "is empty, and the reference is where a policy begins")],
        hint="model.init_from=RUN_OR_CHECKPOINT",
    )


@torch.no_grad()
def _computed(
    model: LanguageModel, pairs: Sequence[EncodedPair], config: RunConfig, pad_id: int, world: World, console: Console
) -> Logps:
    micro, rank, stride = config.train.micro_batch_size, world.rank, world.num_processes * config.train.micro_batch_size
    mine: list[tuple[int, float, float]] = []
    for first in range(0, len(pairs), stride):
        places = range(min(first + rank * micro, len(pairs)), min(first + (rank + 1) * micro, len(pairs)))
        if places:
            with world.autocast():
                found = answer_logps(model, pair_batch(pairs, list(places), pad_id, world.device))
            mine += zip(places, found.chosen_P.tolist(), found.rejected_P.tolist(), strict=True)
        console.say_sometimes(f"reference  {first + stride:,} of {len(pairs):,} pairs")
    logps = np.zeros((len(pairs), 2), dtype=np.float32)
    for part in world.gather(mine):
        for place, chosen, rejected in part:
            logps[place] = chosen, rejected
    return logps


def _save(path: Path, reference: Reference) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        np.savez(file, train=reference.train, val=reference.val)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _numbers(config: RunConfig, world: World) -> str:
    """In which numbers it is computed."""
    return world.precision if config.lora.quantize == "none" else f"{world.precision} {config.lora.quantize}"


def _key(data: PairData, weights: Mapping[str, Tensor], numbers: str) -> str:
    digest = hashlib.sha256(f"{data.identity} {numbers}".encode())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]
