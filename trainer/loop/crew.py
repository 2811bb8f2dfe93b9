"""Threads of all processes that work on one thing while the training goes on: what they tell each other.

They talk over a group of their own, in the same order everywhere, so that they never take a message that was meant for
the loop. gloo, on whatever the loop computes: it waits for no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from trainer.errors import PeerLost, TrainerError

T = TypeVar("T")
PATIENCE = timedelta(hours=24)
"""For what has no bound: one process prepares a corpus, or writes to a slow disk, while the others wait."""
_GONE = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",  # gloo
    "remote process exited",  # NCCL
)


class Crew:
    """The same thread of every process. Every method must be called by all of them."""

    def __init__(self, num_processes: int) -> None:
        """Every process calls this, from its main thread."""
        self._num_processes = num_processes
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE) if num_processes > 1 else None

    def gather(self, value: T) -> list[T]:
        """The value of every process, in order of rank, in every process. Raises PeerLost."""
        if self._group is None:
            return [value]
        values: list[T] = [value] * self._num_processes
        with lost_peers_named():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def on_all(self, act: Callable[[], T]) -> T:
        """All act; where one fails, all raise its error."""
        result, problem = _attempt(act)
        raise_shared(self.gather(problem))
        return result  # type: ignore[return-value]  # without a problem there is a result


def raise_shared(problems: list[TrainerError | None]) -> None:
    """Raise the first of what went wrong in some process; all raise the same."""
    for problem in problems:
        if problem is not None:
            problem.on_every_rank = True
            raise problem


@contextmanager
def lost_peers_named() -> Iterator[None]:
    """A message to a process that has ended becomes a PeerLost."""
    try:
        yield
    except RuntimeError as error:
        if any(words in str(error) for words in _GONE):
            # gloo begins with the place in its source, and goes on with advice.
            why = str(error).splitlines()[0].rpartition("] ")[2].split(". ")[0]
            raise PeerLost("another process of this training is gone", why=why) from error
        raise


def _attempt(act: Callable[[], T]) -> tuple[T | None, TrainerError | None]:
    try:
        return act(), None
    except TrainerError as error:
        return None, error
