"""The other nodes of a training: whether they are still there.

A node that loses its power says nothing: its connections stay open, and whoever waits for it waits for hours. So the
first process of every node counts up a number of its own in the store that torchrun keeps, and every process looks at
all numbers. One that stands still for too long, or a store that does not answer, is told at once, while the main thread
may be waiting for what does not come.

Threads do both, so that neither a long step nor a checkpoint being written is taken for silence, and a process that is
kept from running counts no time. What holds Python's lock for longer than the limit would be taken for the end of a
node that is alive: nothing known does (measured: writing and reading 1 GiB of safetensors hold it for 28 ms).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from trainer.errors import PeerLost

BEAT_SECONDS = 1.0
_LOOK_SECONDS = 0.5
_GOODBYE = b"goodbye"
_LEAVE_SECONDS = 20.0
"""For a store that still answers, however busy its machine is: a thread that Python's end finds within a call of torch
aborts the process (134), after a training that was whole."""


_STORE_GONE = "the node that keeps this training together is gone"
_HINT = "start it again on the nodes there are: it goes on from the newest checkpoint"


class Store(Protocol):
    """What is needed of torch's."""

    def set(self, key: str, value: str) -> None: ...

    def multi_get(self, keys: list[str]) -> list[bytes]: ...


class Silence:
    """For how long somebody has said nothing new, in time that this process had to hear it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.has_left = False
        self._last = b""

    def hear(self, said: bytes) -> None:
        """Something was heard; the same as before is silence."""
        self.has_left = said == _GOODBYE
        if said != self._last:
            self._last, self.seconds = said, 0.0


class Peers:
    """Watches the other nodes from `start` to `leave`, and calls `lost`, once and from a thread, when one is gone."""

    def __init__(
        self,
        store: Store,
        *,
        node: int,
        num_nodes: int,
        beats: bool,
        word: str,
        limit_seconds: float,
        lost: Callable[[PeerLost], None],
    ) -> None:
        """`word`: of this start, the same in all processes. `beats`: whether this process is the one of its node that
        counts."""
        self._store, self._beats, self._limit, self._lost = store, beats, limit_seconds, lost
        self._own = f"{word}/{node}"
        self._others = {number: f"{word}/{number}" for number in range(num_nodes) if number != node}
        self._silences = {number: Silence() for number in self._others}
        self._of_store = Silence()
        self._over = threading.Event()
        self._told = threading.Lock()
        self._heart = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)

    def announce(self) -> None:
        """Be there. All must have done so before any `start`."""
        if self._beats:
            self._store.set(self._own, "0")

    def start(self) -> None:
        """Watch, until `leave`."""
        self._heart.start()
        # Another thread: a store that falls silent keeps the one that asks it waiting for ever.
        threading.Thread(target=self._keep_looking, name="peers", daemon=True).start()

    def leave(self) -> None:
        """Say goodbye and watch no longer. It does not wait for a store that is silent."""
        self._over.set()
        if self._heart.ident is not None:
            self._heart.join(_LEAVE_SECONDS)

    def _keep_beating(self) -> None:
        count = 0
        while not self._over.wait(BEAT_SECONDS):
            count += 1
            try:
                self._beat(str(count))
            except RuntimeError as error:  # torch's DistNetworkError and DistStoreError are
                self._tell(_STORE_GONE, str(error).splitlines()[0])
                return
        if self._beats:
            self._say_goodbye()

    def _beat(self, count: str) -> None:
        if self._beats:
            self._store.set(self._own, count)
        for number, said in zip(self._others, self._store.multi_get(list(self._others.values())), strict=True):
            self._silences[number].hear(said)
        self._of_store.hear(count.encode())

    def _say_goodbye(self) -> None:
        with suppress(RuntimeError):  # the store ended first: everybody is leaving
            self._store.set(self._own, _GOODBYE.decode())

    def _keep_looking(self) -> None:
        before = time.monotonic()
        while not self._over.wait(_LOOK_SECONDS):
            now = time.monotonic()
            # Longer than that it was not silence, but this process that did not run.
            passed, before = min(now - before, 2 * _LOOK_SECONDS), now
            self._of_store.seconds += passed
            if self._of_store.seconds > self._limit:
                self._tell(_STORE_GONE, f"its store has not answered for {self._limit:g} s")
            elif self._of_store.seconds <= 2 * BEAT_SECONDS:  # without it nobody can be heard
                self._count_silences(passed)

    def _count_silences(self, seconds: float) -> None:
        for number, silence in self._silences.items():
            silence.seconds += seconds
            if silence.seconds > self._limit and not silence.has_left:
                self._tell(f"node {number} of this training is gone", f"nothing was heard of it for {self._limit:g} s")

    def _tell(self, what: str, why: str) -> None:
        if not self._over.is_set() and self._told.acquire(blocking=False):
            self._lost(PeerLost(what, why=why, hint=_HINT))
