"""Run the measurements named, or all; print one JSON object of their results.

Each measurement is a program of its own in this folder: a table on stderr, one
JSON object on stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
MEASUREMENTS = (
    "startup",
    "install_size",
    "pull_checkpoint",
    "train_step",
    "encode",
    "input_pipeline",
    "generate",
    "post_training",
    "nodes",
)

LIMIT_SECONDS = 1800
"""Of one measurement; on a quiet machine none takes five minutes."""


def main() -> None:
    names = sys.argv[1:] or list(MEASUREMENTS)
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        sys.exit(f"error: no measurement {', '.join(unknown)}\nhint:  choose from {', '.join(MEASUREMENTS)}")
    results: dict[str, object] = {"machine": platform.platform(), "python": platform.python_version()}
    for name in names:
        print(f"── {name}", file=sys.stderr, flush=True)
        results[name] = measured(name)
    print(json.dumps(results, indent=2))
    sys.exit(any(isinstance(result, dict) and "failed" in result for result in results.values()))


def measured(name: str) -> object:
    """What one prints; how it failed where it did, or that it took too long."""
    argv = [sys.executable, str(HERE / f"{name}.py")]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
    began = time.monotonic()
    try:
        printed, _ = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"error: {name} took longer than {LIMIT_SECONDS} s", file=sys.stderr)
        return {"failed": "timeout"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and whatever it started
        process.wait()
    print(f"   {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return json.loads(printed) if process.returncode == 0 else {"failed": process.returncode}


if __name__ == "__main__":
    main()
