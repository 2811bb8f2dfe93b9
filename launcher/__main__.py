"""`gptops`, and `python -m launcher`: the way into the program.

A Ctrl-C while Python is still importing ends it silently, as the shell expects,
and not with the traceback of somebody's import.
"""

from __future__ import annotations

import signal
import sys


def run() -> None:
    """Run the command line that was typed; ends the process with its exit code."""
    at_a_ctrl_c = signal.getsignal(signal.SIGINT)
    if at_a_ctrl_c is signal.default_int_handler:  # a parent may have chosen to ignore it for us
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Late: importing is what a Ctrl-C may interrupt.
    from launcher.cli import main

    signal.signal(signal.SIGINT, at_a_ctrl_c)
    sys.exit(main())


if __name__ == "__main__":
    run()
