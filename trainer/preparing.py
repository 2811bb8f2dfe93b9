"""A corpus made ready while somebody watches."""

from __future__ import annotations

from pathlib import Path

from trainer.config import DataConfig
from trainer.console import Console
from trainer.data import Progress, ShardSet, prepare
from trainer.quoting import shown


def prepare_data(config: DataConfig, out: Path, console: Console) -> ShardSet:
    """The shards of `config.path`, made in `out` if they are not there yet. Raises DataError."""
    return prepare(config, out, lambda progress: console.say_sometimes(_line(progress)))


def summary(shards: ShardSet) -> str:
    """One line about a shard set."""
    return (
        f"data {shown(shards.root)}: {shards.documents:,} documents, {shards.train_tokens:,} tokens to train on, "
        f"{shards.val_tokens:,} to validate, `{shards.tokenizer_kind}` vocabulary of {shards.vocab_size:,}"
    )


def _line(progress: Progress) -> str:
    share = progress.bytes_done / progress.bytes_total if progress.bytes_total else 1.0
    doing = {"waiting": "another process prepares", "tokenizer": "training the tokenizer", "tokens": "encoding"}
    return (
        f"preparing data: {doing[progress.phase]}  {share:.0%}  {progress.documents:,} documents  "
        f"{progress.tokens:,} tokens  tok/s {progress.tokens_per_second:,.0f}"
    )
