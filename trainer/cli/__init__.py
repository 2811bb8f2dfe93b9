"""`python -m trainer`: the only place that reads a command line.

A command is a file here with `add(commands)`, which describes it to argparse and sets `run`, a function from the parsed
arguments to an exit code; and a line in `commands.py`. torch is imported when a command needs it, so that help is
there at once.
"""

from trainer.cli.program import main

__all__ = ["main"]
