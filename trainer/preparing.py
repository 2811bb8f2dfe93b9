"""A corpus made ready while somebody watches."""

from __future__ import annotations

from pathlib import Path

from trainer.config import DataConfig
from trainer.console import Console, duration
from trainer.data import Mixture, Progress, ShardSet, prepare_all
from trainer.quoting import shown

_BAR = 24


def prepare_data(config: DataConfig, out: Path, console: Console) -> Mixture:
    """The shards of every source of `config`, made in `out` if they are not there yet. Raises DataError."""
    return prepare_all(config, out, lambda progress: console.say_sometimes(progress_line(progress)))


def summary(mixture: Mixture) -> str:
    """A line for every shard set."""
    lines = [_line(part.shards, part.weight if len(mixture.parts) > 1 else None) for part in mixture.parts]
    return "\n".join(lines)


def _line(shards: ShardSet, weight: float | None) -> str:
    share = f"{weight:.1%} of " if weight is not None else ""
    empty = f" ({shards.index.empty_documents:,} without text left out)" if shards.index.empty_documents else ""
    return (
        f"data {share}{shown(shards.root)}: {shards.documents:,} documents{empty}, {shards.train_tokens:,} tokens to "
        f"train on, {shards.val_tokens:,} to validate, `{shards.tokenizer_kind}` vocabulary of {shards.vocab_size:,}"
    )


def progress_line(progress: Progress) -> str:
    """`encoding c4  [######------------------]  26%  1,204 documents  2,604,112 tokens  tok/s 1,904,201  eta 4s`"""
    doing = {"waiting": "another process prepares", "tokenizer": "training the tokenizer on", "tokens": "encoding"}
    parts = [f"{doing[progress.phase]} {progress.source}".rstrip(), bar(progress.share)]
    if progress.phase == "tokens":
        parts += [
            f"{progress.documents:,} documents",
            f"{progress.tokens:,} tokens",
            f"tok/s {progress.tokens_per_second:,.0f}",
            *([f"eta {duration(progress.eta_seconds)}"] if progress.eta_seconds is not None else []),
        ]
    return "  ".join(part for part in parts if part)


def bar(share: float | None) -> str:
    """`[######------------------]  26%`; "" where nobody can tell."""
    if share is None:
        return ""
    full = int(_BAR * share)
    return f"[{'#' * full}{'-' * (_BAR - full)}]  {share:.0%}"
