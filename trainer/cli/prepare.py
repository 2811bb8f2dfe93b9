"""`python -m trainer prepare`: make the shards of a corpus without training on them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cli.options import add_configured, configured
from trainer.config import RunConfig
from trainer.console import Console
from trainer.errors import ExitCode
from trainer.quoting import pasteable

if TYPE_CHECKING:
    from trainer.cli.options import Commands


def add(commands: Commands) -> None:
    """The command `prepare`."""
    command = add_configured(commands, "prepare", "turn text into shards of tokens")
    command.add_argument("--out", type=Path, metavar="DIR", help="folder of the shards (default: out_dir/data)")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    config = configured(args)
    from trainer.preparing import prepare_data, summary

    console = Console()
    data = prepare_data(config.data, args.out or Path(config.out_dir) / "data", console)
    console.say(summary(data))
    if len(data.parts) == 1:
        console.say(f"next: python -m trainer pretrain data.path={pasteable(data.first.root)}{_tokenizer_keys(config)}")
    return ExitCode.OK


def _tokenizer_keys(config: RunConfig) -> str:
    """What a training on these shards has to be told about their tokenizer."""
    tokenizer = config.data.tokenizer
    if tokenizer.path:
        return f" data.tokenizer.path={pasteable(tokenizer.path)}"
    size = f" data.tokenizer.vocab_size={tokenizer.vocab_size}" if tokenizer.kind == "bpe" else ""
    return f" data.tokenizer.kind={tokenizer.kind}{size}" if tokenizer.kind != "gpt2" else ""
