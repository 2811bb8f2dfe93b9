"""From words to an exit code: parse, run one command, say what went wrong.

python -m trainer pretrain [--config FILE] [--dry-run] [key=value ...]
python -m trainer prepare  [--config FILE] [--out DIR] [key=value ...]
python -m trainer generate CHECKPOINT [--prompt TEXT] [--max-tokens N] ...
python -m trainer config
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence

from trainer.cli.commands import COMMANDS
from trainer.config import ConfigError
from trainer.console import show_error
from trainer.errors import TrainerError

_RANK_0_SPEAKS_WITHIN_SECONDS = 10

_EPILOG = """\
examples:
  python -m trainer pretrain --dry-run                        prove this installation in half a minute
  python -m trainer pretrain --config train.yaml optim.lr=3e-4
  torchrun --standalone --nproc-per-node=gpu -m trainer pretrain --config train.yaml
  python -m trainer generate runs/local --prompt 'To be'

exit codes:
  0 done   2 configuration   3 data   4 checkpoint   5 this machine   75 told to stop, saved: start again and it goes on
  76 another node or process of this training is gone: start all again
"""


def main(argv: Sequence[str]) -> int:
    """Run one command; its exit code, as trainer.errors documents it. No fault of a user, file or machine escapes."""
    try:
        args = _parsed(argv)
        code: int = args.run(args)
        return code
    except TrainerError as error:
        if not error.told and _is_mine(error):
            show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _is_mine(error: TrainerError) -> bool:
    """Whether this process should show it. What all processes have, rank 0 says; the others stay until it has."""
    shared = error.on_every_rank or isinstance(error, ConfigError)
    if not shared or os.environ.get("RANK", "0") == "0":
        return True
    # torchrun ends every process, by SIGTERM, when the first one has ended: it must not be one of the silent.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(error.exit_code))
    time.sleep(_RANK_0_SPEAKS_WITHIN_SECONDS)
    return False


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    if tuple(argv[:2]) == ("reward", "test"):
        argv = ["reward test", *argv[2:]]
    args, rest = parser.parse_known_args(argv)
    # argparse takes one run of `key=value`; here they may stand before, between and after the options.
    unknown = [word for word in rest if word.startswith("-") or not hasattr(args, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Train a GPT: one engine, every stage, from a dry run on a laptop to many GPUs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
