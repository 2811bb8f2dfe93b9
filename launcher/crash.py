"""Points where a test may kill this program as hard as a power cut does.

`crashpoint("sync:verified")` does nothing unless the environment variable
GPTOPS_CRASH_AT holds exactly that name; then the process kills itself with
SIGKILL, so no handler, no `finally` and no flush runs. Names are `verb:step`.
"""

from __future__ import annotations

import os
import signal


def crashpoint(name: str) -> None:
    """Die here, at once and for good, if the environment asks for it."""
    if os.environ.get("GPTOPS_CRASH_AT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
