"""What several commands take: a configuration from a file, with `key=value` laid over it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config import ConfigError, RunConfig, load_yaml, run_config

if TYPE_CHECKING:  # argparse has this type for annotations only
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

KEYS_HINT = "key=value    any key of the configuration; `python -m trainer config` lists all of them"


def add_with_examples(commands: Commands, name: str, text: str, examples: str) -> argparse.ArgumentParser:
    """A command whose help ends with examples, printed as they stand."""
    return commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_configured(commands: Commands, name: str, text: str) -> argparse.ArgumentParser:
    """A command that takes `--config FILE` and `key=value`."""
    command = commands.add_parser(name, help=text, description=text, epilog=KEYS_HINT, allow_abbrev=False)
    command.add_argument("--config", type=Path, metavar="FILE", help="YAML; without it every key has its default")
    command.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="laid over the file")
    return command


def configured(args: argparse.Namespace) -> RunConfig:
    """The configuration such a command was given. Raises ConfigError."""
    mapping = load_yaml(args.config) if args.config else None
    try:
        return run_config(mapping, source=str(args.config or "defaults"), overrides=args.overrides)
    except ConfigError as error:
        error.hint = error.hint or "`python -m trainer config` lists every key, what it takes and what it is for"
        raise
