"""`python -m trainer generate`: let a checkpoint write."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.console import Console
from trainer.errors import ExitCode

if TYPE_CHECKING:
    from trainer.cli.options import Commands


def add(commands: Commands) -> None:
    """The command `generate`."""
    command = commands.add_parser("generate", help="let a checkpoint write", allow_abbrev=False)
    command.add_argument("checkpoint", type=Path, help="a checkpoint, or a run's folder: its newest one")
    for option, kind, default, text in (
        ("--prompt", str, "\n", "how the text begins; left out, a new line"),
        ("--max-tokens", int, 200, "tokens to write (%(default)s)"),
        ("--temperature", float, 0.8, "0 takes the likeliest token (%(default)s)"),
        ("--top-k", int, 50, "choose from so many; 0 switches the limit off (%(default)s)"),
        ("--top-p", float, 1.0, "share of the probability to choose from (%(default)s)"),
        ("--seed", int, 1337, "of the random choices (%(default)s)"),
    ):
        command.add_argument(option, type=kind, default=default, help=text, metavar="TEXT" if kind is str else "N")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    import torch

    from trainer.models.generate import generate
    from trainer.models.policies import find_checkpoint, open_policy

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = open_policy(find_checkpoint(args.checkpoint), device)
    ids = generate(
        model,
        tokenizer.encode(args.prompt) or [tokenizer.eot_id],
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
        stop_id=tokenizer.eot_id,
    )
    Console().say(args.prompt + tokenizer.decode(ids))
    return ExitCode.OK
