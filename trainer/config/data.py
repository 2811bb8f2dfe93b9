"""Where the text comes from, and how it becomes ids, as a configuration says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from trainer.config.strict import Model

Vocabularies = {"bytes": 257, "gpt2": 50257}
"""Sizes of the tokenizers whose vocabulary is fixed, end-of-text included."""


class TokenizerConfig(Model):
    """How text becomes ids."""

    kind: Literal["bytes", "gpt2", "bpe"] = "gpt2"
    """`bytes` needs nothing; `gpt2` is tiktoken's; `bpe` is trained on the corpus when it is prepared."""
    vocab_size: PositiveInt = Field(50257, ge=257)
    """Vocabulary of a `bpe` tokenizer, end-of-text included. Fixed for the other kinds."""

    @model_validator(mode="before")
    @classmethod
    def _fixed_vocabulary(cls, section: Any) -> Any:
        if not isinstance(section, Mapping):
            return section
        kind = section.get("kind", "gpt2")
        fixed = Vocabularies.get(kind) if isinstance(kind, str) else None
        if fixed is None:
            return {"vocab_size": 8192, **section}
        if section.get("vocab_size", fixed) != fixed:
            raise ValueError(f"the `{kind}` tokenizer has {fixed} tokens; leave vocab_size out or choose kind `bpe`")
        return {**section, "vocab_size": fixed}


class DataConfig(Model):
    """Where the text comes from."""

    path: str = "sample"
    """A file or folder of .txt, .md, .jsonl or .parquet, a folder of prepared shards, or `sample`: the plays that
    ship with the trainer. Relative paths start at the folder the trainer runs in, on a host the uploaded code."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Must be the one the shards were made with; checked by hash."""
    text_column: str = "text"
    """The field of .jsonl and .parquet rows that holds the text."""
    val_fraction: float = Field(0.1, gt=0.0, lt=1.0)
    """Share of the tokens, taken from the end of the corpus, kept for validation."""
