"""`python -m trainer merge`: adapters and their base as one checkpoint, which computes the same."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cli.options import add_with_examples
from trainer.console import Console
from trainer.errors import ExitCode
from trainer.quoting import shown

if TYPE_CHECKING:
    from trainer.cli.options import Commands

_EPILOG = """\
examples:
  python -m trainer merge runs/lora runs/merged
  python -m trainer export runs/merged my-model
"""


def add(commands: Commands) -> None:
    """The command `merge`."""
    text = "add adapters to their base: a checkpoint of whole weights"
    command = add_with_examples(commands, "merge", text, _EPILOG)
    command.add_argument("checkpoint", type=Path, help="a checkpoint of adapters, or a run's folder: its newest one")
    command.add_argument("folder", type=Path, help="where to; a run's folder, with no checkpoints in it yet")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from trainer.models.merging import merge  # torch

    written, difference = merge(args.checkpoint, args.folder)
    Console().say(f"merged into {shown(written)}: the logits are those of the adapters within {difference:.1g}")
    return ExitCode.OK
