"""Sides that take turns: each lives in a process of its own, and one works while the others wait.

The measuring process writes a line to a side, a number of steps or `peak`, and reads one JSON list: the seconds of each
step, or the most memory in MB. The first side of a round changes each time, so that what drifts falls on all alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]

ANSWER_SECONDS = 600
"""A turn takes seconds, on a busy machine a minute; what is silent for longer will not speak again."""


# --- the measuring process -------------------------------------------------------------------------------------------


def start(argv: Sequence[str], threads: int, *paths: str) -> subprocess.Popen[str]:
    """One side, built and waiting for its turn; `paths` go before what Python finds already."""
    found = os.pathsep.join(part for part in (str(ROOT), *paths, os.environ.get("PYTHONPATH")) if part)
    limits = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "0"}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment = {**os.environ, **limits, **offline, "PYTHONPATH": found}
    return subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class Failed(Exception):
    """A measured process that will not answer any more, in words."""


def in_turn(
    sides: Mapping[str, subprocess.Popen[str]], *, warm_up: int, rounds: int, steps: int, peers: Collection[str] = ()
) -> dict[str, list[float]]:
    """Seconds of each step of each side; `steps` of them are a turn.

    One of `peers` that fails is said and left out, the others go on without it; any other side ends the program.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}

    def turn(name: str, steps: int) -> list[float]:
        try:
            return [float(second) for second in _ask(sides[name], str(steps))]
        except Failed as failed:
            if name not in peers:
                sys.exit(f"error: {name}: {failed}")
            print(f"{name} is left out: {failed}", file=sys.stderr, flush=True)
            del seconds[name]
            return []

    for name in sides:
        tell(f"{name} warms up")
        turn(name, warm_up)
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}")
        for name in list(seconds) if number % 2 == 0 else list(seconds)[::-1]:
            if taken := turn(name, steps):
                seconds[name] += taken
    tell("")
    return seconds


def finish(process: subprocess.Popen[str]) -> float:
    """Peak memory of one side in MB; its process ends."""
    try:
        (peak_mb,) = _ask(process, "peak")
    except Failed as failed:
        sys.exit(f"error: {failed}")
    process.communicate(timeout=60)
    return float(peak_mb)


def tell(words: str) -> None:
    """Progress on stderr: of a terminal one line, the last, which no words end."""
    ends = ("\r\x1b[K", "\r") if sys.stderr.isatty() else ("", "\n")
    if words or sys.stderr.isatty():
        print(f"{ends[0]}{words}", end=ends[1], file=sys.stderr, flush=True)


def _ask(process: subprocess.Popen[str], words: str) -> list[Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it is dead: read below
        process.stdin.write(words + "\n")
        process.stdin.flush()
    if not select.select([process.stdout], [], [], ANSWER_SECONDS)[0]:
        process.kill()  # the others end when they find nobody to listen to
        raise Failed(f"it said nothing for {ANSWER_SECONDS} s; take fewer threads than cores are free")
    answer = process.stdout.readline()
    if not answer:
        raise Failed(f"it died with exit code {process.wait(timeout=60)}")
    return list(json.loads(answer))


# --- a measured process ----------------------------------------------------------------------------------------------


class Pace:
    """Lets the steps of a loop pass when it is their side's turn. `edge` is called where one step ends and the next
    begins; what is measured is the time between, without the waiting."""

    def __init__(self, answers: TextIO, peak_mb: Callable[[], float], *, processor_time: bool = False) -> None:
        self._answers, self._peak_mb = answers, peak_mb
        self._clock = time.process_time if processor_time else time.perf_counter
        self._left = 0
        self._began: float | None = None
        self._seconds: list[float] = []

    def edge(self) -> None:
        """Ends the process when its side is told to finish."""
        now = self._clock()
        if self._began is not None:
            self._seconds.append(now - self._began)
        if self._left == 0:
            self._left = self._next_turn()
        self._left -= 1
        self._began = self._clock()

    def _next_turn(self) -> int:
        if self._began is not None:
            self._say(self._seconds)
        self._seconds = []
        line = sys.stdin.readline().strip()
        if line in ("", "peak"):
            if line:
                self._say([self._peak_mb()])
            os._exit(0)  # from within a training that nobody wants to end in order
        return int(line)

    def _say(self, numbers: Sequence[float]) -> None:
        print(json.dumps(list(numbers)), file=self._answers, flush=True)


def memory_mb(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (the most ever) of this process, from the Linux kernel."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError(field)
