"""`python -m trainer export`: a checkpoint as a folder that transformers loads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cli.options import add_with_examples
from trainer.console import Console
from trainer.errors import ExitCode
from trainer.quoting import pasteable, shown

if TYPE_CHECKING:
    from trainer.cli.options import Commands

_EPILOG = """\
examples:
  python -m trainer export runs/local my-gpt
  python -m trainer export runs/local/checkpoints/step_00001000 my-gpt

then, in Python:
  AutoModelForCausalLM.from_pretrained('my-gpt'), AutoTokenizer.from_pretrained('my-gpt')
"""


def add(commands: Commands) -> None:
    """The command `export`."""
    text = "write a checkpoint as a folder that transformers loads"
    command = add_with_examples(commands, "export", text, _EPILOG)
    command.add_argument("checkpoint", type=Path, help="a checkpoint, or a run's folder: its newest one")
    command.add_argument("folder", type=Path, help="where to; it must not exist, or be empty")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from trainer.models.export import export  # torch

    found = export(args.checkpoint, args.folder)
    console = Console()
    console.say(f"exported {shown(found)} to {shown(args.folder)}")
    model = f"pretrained={pasteable(args.folder)}"
    console.say(f"next: lm_eval --model hf --model_args {model} --tasks hellaswag")
    return ExitCode.OK
