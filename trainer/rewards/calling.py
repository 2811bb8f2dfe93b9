"""Functions of a user, called in a process of their own, with a time limit that holds whatever they do.

A function that hangs, crashes the interpreter or calls `sys.exit` costs one answer and never the training. Each call
waits for its answer; the process is started when it is needed and again after it was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import DataError
from trainer.quoting import shown

_LOADING_SECONDS = 120.0
"""A module may import torch, on a machine that is busy."""


@dataclass(frozen=True)
class Answer:
    """What a call came to."""

    value: Any = None
    problem: str = ""
    """Why there is no value, or ""."""


class Caller:
    """One process, and what has been loaded in it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._loaded: set[str] = set()
        self._close: Any = None

    def require(self, use: str) -> None:
        """Load `FILE:FUNCTION`. Raises DataError where there is none."""
        if problem := self._load(use).problem:
            raise DataError(
                f"`{use}` cannot be used",
                why=problem,
                hint="name a function in a file of Python: `path/to/file.py:function`",
            )

    def call(self, use: str, arguments: dict[str, Any], seconds: float, *, leave_out: bool = False) -> Answer:
        """`use(**arguments)`, or why not; after `seconds` its process is killed.

        With `leave_out`, arguments that the function does not take are left out.
        """
        if problem := self._load(use).problem:
            return Answer(problem=problem)
        return self._asked({"use": use, "arguments": arguments, "leave_out": leave_out}, seconds, use)

    def close(self) -> None:
        """End the process; the next call starts another one."""
        if self._close is not None:
            self._close()
        self._process = self._close = None
        self._loaded.clear()

    def _load(self, use: str) -> Answer:
        if use in self._loaded:
            return Answer()
        path = use.rpartition(":")[0]
        if not Path(path).is_file():
            return Answer(problem=f"there is no file {shown(path)}")
        answer = self._asked({"use": use}, _LOADING_SECONDS, use)
        if not answer.problem:
            self._loaded.add(use)
        return answer

    def _asked(self, request: dict[str, Any], seconds: float, use: str) -> Answer:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request, default=str).encode() + b"\n")
            process.stdin.flush()
            line = _line(process.stdout.fileno(), seconds)
        except (OSError, _TooLong) as problem:
            self.close()
            return Answer(problem=f"no answer within {seconds:g} s" if isinstance(problem, _TooLong) else "it crashed")
        if not line:
            self.close()
            return Answer(problem=f"the process that ran it ended ({use})")
        answer = json.loads(line)
        return Answer(answer.get("value"), answer.get("problem", ""))

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("worker.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # so that whatever it starts can be ended with it
            )
            self._close = weakref.finalize(self, _end, self._process)
        return self._process


class _TooLong(Exception):
    pass


def _line(descriptor: int, seconds: float) -> bytes:
    """One line from a pipe, b"" at its end. Raises _TooLong. Read here and not by a buffer that select cannot see."""
    deadline = time.monotonic() + seconds
    parts: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise _TooLong
            part = os.read(descriptor, 1 << 16)
            if not part:
                return b""
            parts.append(part)
            if part.endswith(b"\n"):
                return b"".join(parts)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):  # what was not yet written goes nowhere
            pipe.close()
    process.wait()
