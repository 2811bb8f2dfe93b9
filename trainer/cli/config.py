"""`python -m trainer config`: every key there is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from trainer.console import Console
from trainer.errors import ExitCode

if TYPE_CHECKING:
    from trainer.cli.options import Commands


def add(commands: Commands) -> None:
    """The command `config`."""
    command = commands.add_parser("config", help="list every key of the configuration", allow_abbrev=False)
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from trainer.config_keys import keys_text

    Console().say(keys_text())
    return ExitCode.OK
