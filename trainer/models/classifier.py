"""A sequence classifier of transformers with one label, asked for a number about each text: `hf:FOLDER` or an id.

It has a tokenizer of its own, so texts go in and no ids. What is too long loses its front, which leaves the answer.
"""

# B = texts, T = tokens

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trainer.errors import CheckpointError, DataError
from trainer.models.hf_folder import hf_folder

_FILES = ("special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "*.model")
"""What tokenizers of classifiers have beside tokenizer.json."""


class SequenceClassifier:
    """The model with its tokenizer."""

    def __init__(self, source: str, device: torch.device, *, micro_batch_size: int) -> None:
        """`source` begins with `hf:`. Raises CheckpointError where it is no classifier with one label."""
        self._device, self._micro = device, micro_batch_size
        folder = str(hf_folder(source, key="reward.functions", also=_FILES))
        self._model, self._tokenizer = _loaded(folder, source)
        self._model.to(device).eval().requires_grad_(False)
        self._tokenizer.truncation_side, self._tokenizer.padding_side = "left", "right"
        config = self._model.config.get_text_config()
        self._longest = min(self._tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or 2**30)
        # A decoder looks for the last token that is not this one; without it, it takes one text at a time.
        pads = config.pad_token_id is not None and config.pad_token_id == self._tokenizer.pad_token_id
        self._together = micro_batch_size if pads else 1
        special = sorted(self._tokenizer.get_added_vocab(), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special))) if special else None

    @torch.no_grad()
    def scores(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[float]:
        """A number for each text."""
        found: list[float] = []
        for first in range(0, len(texts), self._together):
            batch = self._tokenizer(
                list(texts[first : first + self._together]),
                add_special_tokens=add_special_tokens,
                truncation=True,
                max_length=self._longest,
                padding=self._together > 1,
                return_tensors="pt",
            )
            logits_B1 = self._model(**{name: part.to(self._device) for name, part in batch.items()}).logits
            found += logits_B1.squeeze(-1).float().tolist()
        return found

    @property
    def has_template(self) -> bool:
        """Whether it says how a conversation is written for it."""
        return bool(self._tokenizer.chat_template)

    def written(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """A conversation by its own chat template. What a message spells like a special token is left out of it."""
        plain = [{**message, "content": self.without_special(str(message["content"]))} for message in messages]
        try:
            return str(self._tokenizer.apply_chat_template(plain, tools=list(tools) or None, tokenize=False))
        except Exception as error:  # a template is a program of somebody else, and may raise anything
            raise DataError(
                "the chat template of the reward model fails",
                why=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
                hint="take another reward model, or remove its chat template: texts then go in as a transcript",
            ) from error

    def without_special(self, text: str) -> str:
        """The text without what spells a special token: a policy must not be able to write one."""
        return self._special.sub("", text) if self._special else text


def _loaded(folder: str, source: str) -> tuple[Any, Any]:
    # Late: seconds, for those who name such a model.
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    was = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # it would warn of a head that is new, which is refused below
    try:
        model, told = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # whatever transformers raises for a folder it cannot read
        raise CheckpointError(
            f"`{source}` is no sequence classifier that transformers can load",
            why=(str(error).strip().splitlines() or [type(error).__name__])[0],
            hint="name a folder with `config.json`, weights and a tokenizer, as `save_pretrained` writes them",
        ) from error
    finally:
        logging.set_verbosity(was)
    if told["missing_keys"]:
        raise CheckpointError(
            f"`{source}` is no reward model: it has no head for sequences",
            why=f"its weights lack {', '.join(sorted(told['missing_keys'])[:3])}",
            hint="a model that writes text gives no score; take one saved by AutoModelForSequenceClassification",
        )
    if model.config.num_labels != 1:
        raise CheckpointError(
            f"`{source}` gives {model.config.num_labels} numbers for a text, and a reward is one",
            why=f"its `num_labels` is {model.config.num_labels}",
            hint="take one that was trained with num_labels=1, or ask it from a function: `reward.py:function`",
        )
    return model, tokenizer
