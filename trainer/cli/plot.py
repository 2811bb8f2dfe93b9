"""`python -m trainer plot`: the curves of runs, in the terminal or as a picture."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.console import Console
from trainer.errors import ExitCode
from trainer.quoting import shown

if TYPE_CHECKING:
    from trainer.cli.options import Commands

_WIDEST = 120

_EXAMPLES = """\
examples:
  python -m trainer plot runs/local
  python -m trainer plot runs/a runs/b --out compare.png
  python -m trainer plot runs/local --out curves.html          one file, without scripts, to look at anywhere
"""


def add(commands: Commands) -> None:
    """The command `plot`."""
    command = commands.add_parser(
        "plot",
        help="draw loss, learning rate and throughput of runs",
        description="Draw loss, learning rate, throughput and gradient norm of runs, from their metrics.jsonl.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run, or its metrics.jsonl")
    command.add_argument("--out", type=Path, metavar="FILE", help="write a .png, .html, .svg or .pdf instead")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from trainer.plotting.curves import read_runs
    from trainer.plotting.panels import page
    from trainer.plotting.picture import write_picture

    runs = read_runs(args.runs)
    if args.out is None:
        Console().say(page(runs, width=min(_WIDEST, shutil.get_terminal_size().columns)))
    else:
        write_picture(runs, args.out)
        Console(aside=True).say(f"drew {len(runs)} run{'s' * (len(runs) > 1)} in {shown(args.out)}")
    return ExitCode.OK
