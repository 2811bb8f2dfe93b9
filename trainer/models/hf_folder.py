"""Where an `hf:` policy lies: a folder, or a model of the hub brought here, with its weights and its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from trainer.config import RunConfig, run_config
from trainer.config.hf_policy import HF, section_of_settings
from trainer.config.model import ModelConfig
from trainer.errors import CheckpointError
from trainer.models.build import build_model
from trainer.models.hf_policy import of_transformers_names
from trainer.models.hub_model import downloaded
from trainer.quoting import shown

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def is_hf(source: str) -> bool:
    """Whether `model.init_from` names a policy that transformers runs."""
    return source.startswith(HF)


def hf_folder(source: str, *, key: str = "model.init_from", also: tuple[str, ...] = ()) -> Path:
    """The folder of `hf:…`, downloaded where it is none here, with `also` further files. Raises CheckpointError that
    names the configuration's `key`."""
    name = source.removeprefix(HF)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith(("/", ".", "~")):
        raise CheckpointError(
            f"`{key}` names `{source}`, and there is no folder {shown(folder)}",
            hint="write a folder that exists here, or hf:OWNER/NAME",
        )
    return downloaded(name, also=(*_TOKENIZER, *also), key=key)


def tokenizer_folder(source: str) -> Path:
    """A folder with the tokenizer of `hf:…`; of the hub nothing else is brought here. Raises CheckpointError."""
    folder = Path(source.removeprefix(HF)).expanduser()
    if folder.is_dir():
        return folder
    return downloaded(source.removeprefix(HF), also=_TOKENIZER, key="--tokenizer", weights=False)


def resolved(config: RunConfig) -> RunConfig:
    """`config` with the sizes and the tokenizer of an `hf:` policy that were not known before it was here."""
    if config.model.is_known:
        return config
    folder = hf_folder(config.model.init_from)
    section = {**_section(folder), "init_from": config.model.init_from}
    section |= {"dropout": config.model.dropout, "backend": config.model.backend}
    found = {**config.model_dump(mode="json"), "model": section}
    if "tokenizer" not in config.data.model_fields_set:
        found["data"] = {**found["data"], "tokenizer": {"path": str(folder)}}
    return run_config(found, source=f"the configuration with {config.model.init_from}")


def weights_of_hf(config: ModelConfig) -> dict[str, Tensor]:
    """The weights of `config.init_from` for the network of `config`, in fp32. Raises CheckpointError."""
    folder = hf_folder(config.init_from)
    with torch.device("meta"):  # names alone, which no backend changes
        names = build_model(config.model_copy(update={"backend": "transformers"})).state_dict()
    return of_transformers_names(_state(folder, config), names)


def _state(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    # Late: seconds, for those who have such a policy.
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    try:
        logging.disable_progress_bar()  # stderr has lines, one at a time
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        state: dict[str, Tensor] = model.state_dict()
        return state
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{shown(folder)} is no causal language model that transformers can load",
            why=why,
            hint="the folder must hold `config.json` and weights, as `save_pretrained` of transformers writes them",
        ) from error


def _section(folder: Path) -> dict[str, object]:
    try:
        return section_of_settings(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{shown(folder / 'config.json')} does not describe a causal language model",
            why=f"{type(error).__name__}: {error}",
            hint="name the folder that `save_pretrained` of transformers wrote",
        ) from error
