"""Run the measurements named, or all; print one JSON object of their results, and one table of them on stderr.

Each measurement is a program of its own in this folder: its progress and figures on stderr, one JSON object on stdout.
One that fails, or has no data, is said and does not end the others.
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
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
MEASUREMENTS = {
    "startup": ("startup",),
    "install_size": ("install_size",),
    "pull_checkpoint": ("pull_checkpoint",),
    "train_step": ("train_step",),
    "train_step_compiled": ("train_step", "--compile"),
    "training": ("training",),
    "time_to_loss": ("time_to_loss", "$GPTOPS_BENCH_TEXT"),
    "encode": ("encode",),
    "input_pipeline": ("input_pipeline",),
    "generate": ("generate", "--rounds", "4"),
    "post_training": ("post_training", "--rounds", "2"),
    "nodes": ("nodes",),
}
"""Their programs and arguments, fewer rounds than they take by themselves where they would take long."""

LIMIT_SECONDS = 900
"""Of one measurement; on two quiet cores the longest, compiled steps beside three peers, takes some ten minutes."""


def main() -> None:
    names = sys.argv[1:] or list(MEASUREMENTS)
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        sys.exit(f"error: no measurement {', '.join(unknown)}\nhint:  choose from {', '.join(MEASUREMENTS)}")
    results: dict[str, object] = {}
    for number, name in enumerate(names, start=1):
        _say(f"── {name} ({number} of {len(names)})")
        began = time.monotonic()
        results[name] = measured(name)
        _say(f"   {name}: {time.monotonic() - began:.0f} s")
    _say("── all")
    for line in table(results):
        _say(line)
    print(json.dumps({"machine": platform.platform(), "python": platform.python_version(), **results}, indent=2))
    sys.exit(any(isinstance(result, dict) and "failed" in result for result in results.values()))


def measured(name: str) -> object:
    """What one prints; why it was left out, or how it failed."""
    words = [os.environ.get(word[1:], "") if word.startswith("$") else word for word in MEASUREMENTS[name]]
    if "" in words:
        return {"left_out": f"{MEASUREMENTS[name][words.index('')][1:]} is not set"}
    argv = [sys.executable, str(HERE / f"{words[0]}.py"), *words[1:]]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        printed, _ = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return {"failed": f"it took longer than {LIMIT_SECONDS} s"}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and whatever it started
        process.wait()
    if process.returncode:
        return {"failed": f"exit code {process.returncode}"}
    try:
        return json.loads(printed)
    except ValueError:
        return {"failed": "it printed no JSON"}


def table(results: dict[str, object]) -> list[str]:
    """A line for each ratio; of a measurement without one, for each figure."""
    rows = []
    for name, result in results.items():
        figures = list(leaves(result))
        ratios = [(path, value) for path, value in figures if "ratio" in path or path.endswith(("failed", "left_out"))]
        rows += [(name, path, value) for path, value in ratios or figures]
    width = max((len(path) for _, path, _ in rows), default=0)
    return [f"{name:<20} {path:<{width}}  {value}" for name, path, value in rows]


def leaves(result: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every figure with the names that lead to it."""
    if isinstance(result, dict):
        for name, part in result.items():
            yield from leaves(part, f"{path} {name}".strip())
    elif result != []:
        yield path, ", ".join(result) if isinstance(result, list) else result


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
