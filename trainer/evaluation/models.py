"""A model to be measured: one of our checkpoints, or a causal LM of transformers, behind one small seam.

What is measured never asks which of the two it is. Nothing is sampled and nothing is trained here. A checkpoint of
ours may hold a policy of transformers, or adapters beside a base: its network is put together all the same.
"""

# B = sequences, T = tokens, V = vocabulary

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from trainer.checkpoints.checkpoint import CONFIG, read_config
from trainer.config import RunConfig, run_config
from trainer.config.hf_policy import positions_of
from trainer.errors import CheckpointError
from trainer.models.hf_folder import hf_folder
from trainer.models.policies import find_checkpoint, open_policy
from trainer.quoting import shown

HUB = "hf:"
"""Before the id of a model on the hub: `hf:HuggingFaceTB/SmolLM2-135M`."""

_FILES = ("*.json", "*.txt", "*.model", "*.tiktoken")
"""Of a model of the hub, beside its weights: what tokenizers are kept in."""

_UNLIMITED = 2048
"""Tokens of a row for a network that names no longest one (ALiBi, recurrent ones): GPT-3's context."""


class MeasuredModel(Protocol):
    """Ids in, logits out, and the tokenizer that goes with them."""

    @property
    def name(self) -> str:
        """For the report."""

    @property
    def max_seq_len(self) -> int:
        """Tokens of the longest row it takes."""

    @property
    def start_id(self) -> int:
        """The id that stands before a text of which nothing is known: end-of-text, or the beginning."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text, and no special ones."""

    def logits(self, ids_BT: Tensor) -> Tensor:
        """(B, T, V), in the dtype the model computes in. Every row is attended from its first id on."""


class OwnModel:
    """A GPT from one of our checkpoints."""

    def __init__(self, checkpoint: Path, device: torch.device) -> None:
        self._model, self.tokenizer = open_policy(checkpoint, device)
        self._device = device
        self.name = str(checkpoint)
        self.max_seq_len: int = self._model.config.max_seq_len
        self.start_id = self.tokenizer.eot_id
        self._checkpoint = checkpoint

    @property
    def trained_with(self) -> RunConfig:
        """Its own configuration. Raises ConfigError."""
        return trained_with(self._checkpoint)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    @torch.no_grad()
    def logits(self, ids_BT: Tensor) -> Tensor:
        logits_BTV: Tensor = self._model(ids_BT.to(self._device)).logits
        return logits_BTV


class TransformersModel:
    """A causal LM of transformers, from a folder."""

    def __init__(self, folder: str, device: torch.device, *, name: str = "") -> None:
        self._model, self._tokenizer = _opened(folder)
        self._model.to(device).eval()
        self._device = device
        self.name = name or folder
        self.max_seq_len = positions_of(self._model.config.to_dict()) or _UNLIMITED
        known = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id)
        self.start_id = next((int(each) for each in known if each is not None), 0)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    @torch.no_grad()
    def logits(self, ids_BT: Tensor) -> Tensor:
        logits_BTV: Tensor = self._model(ids_BT.to(self._device)).logits
        return logits_BTV


def trained_with(checkpoint: Path) -> RunConfig:
    """The configuration that a checkpoint of ours was trained with. Raises ConfigError."""
    return run_config(read_config(checkpoint), source=str(checkpoint / CONFIG))


def open_measured(which: str, device: torch.device) -> MeasuredModel:
    """The model `which` names: a checkpoint or a run's folder, a folder of transformers, or `hf:ID`.

    Raises CheckpointError where it is none of these.
    """
    if which.startswith(HUB):
        return TransformersModel(str(hf_folder(which, key="MODEL", also=_FILES)), device, name=which.removeprefix(HUB))
    path = Path(which).expanduser()
    if (path / "config.json").is_file():
        return TransformersModel(str(path), device)
    return OwnModel(find_checkpoint(path), device)


def _opened(folder: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # late: seconds, for those who need it
    from transformers.utils import logging

    try:
        logging.disable_progress_bar()  # stderr has lines, one at a time
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tokenizer
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise CheckpointError(
            f"{shown(Path(folder))} is no causal language model that transformers can load",
            why=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            hint="name a checkpoint, a run's folder, a folder with config.json, or hf:OWNER/NAME",
        ) from error
