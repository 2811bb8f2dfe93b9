"""The processes that train together: how many they are, on which device, and what they agree on.

trainer.loop.forming chooses the device and forms the group that reduces gradients. Beside it stands a small group
of our own over gloo, for what the loop has to agree on (units, stop requests, errors): it waits for no GPU,
and it may wait for hours while one rank prepares a corpus.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from trainer.checkpoints.disk import Disk
from trainer.config import TrainConfig
from trainer.console import show_error
from trainer.errors import PeerLost, TrainerError
from trainer.loop.crew import PATIENCE, lost_peers_named, raise_shared
from trainer.loop.forming import formed_group, require_size
from trainer.loop.peers import Peers
from trainer.loop.precision import Precision
from trainer.loop.signals import interruptible

T = TypeVar("T")


class World:
    """This process among those that train together. Every method that talks to the others must be called by all."""

    def __init__(self, accelerator: Any, precision: Precision) -> None:
        self.accelerator = accelerator
        self.precision = precision
        self.rank: int = accelerator.process_index
        self.num_processes: int = accelerator.num_processes
        self.device: torch.device = accelerator.device
        # The backend that reduces gradients on a CPU is gloo as well, but its timeout is for a peer that hangs.
        self._control = dist.new_group(backend="gloo", timeout=PATIENCE) if self.num_processes > 1 else None
        self.is_first_here: bool = accelerator.local_process_index == 0
        """Whether this is the first process of its node."""
        firsts = self.gather(self.is_first_here)
        self.num_nodes = sum(firsts)
        self.node = sum(firsts[: self.rank + 1]) - 1
        """The number of this process's node; torchrun numbers the processes of a node in a row."""
        self._peers: Peers | None = None
        self.disk = Disk.of_all(self.is_first)
        """Where this process's files lie; trainer.checkpoints.out_dir finds out."""

    def watch_peers(self, limit_seconds: float, environ: Mapping[str, str]) -> None:
        """From now on a node that is lost ends this process; nothing where there is one node. Every rank calls this."""
        if self.num_nodes == 1:
            return
        word = self.gather(secrets.token_hex(4))[0]  # the store outlives a restart by torchrun
        # A connection of its own: the group's waits, and would make these wait.
        store: Any = dist.TCPStore(  # type: ignore[attr-defined]  # public, and not in its __all__
            environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), is_master=False, wait_for_workers=False
        )
        self._peers = Peers(
            store,
            node=self.node,
            num_nodes=self.num_nodes,
            beats=self.is_first_here,
            word=f"gptops/{word}",
            limit_seconds=limit_seconds,
            lost=self._end_without_peers,
        )
        self._peers.announce()
        self.on_all(lambda: None)
        self._peers.start()

    def part(self) -> None:
        """All is done: wait for the others, then miss nobody. The store may end with the first process that does."""
        if self._peers is not None:
            self.totals([0.0])
            self._peers.leave()

    def _end_without_peers(self, error: PeerLost) -> None:
        """End this process from another thread: the main one may wait for ever for what does not come."""
        if self.is_first_here:
            show_error(error)
        sys.stdout.flush()
        os._exit(error.exit_code)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Forwards in here compute in the run's precision; the wrapped policy's do anyway."""
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    def totals(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks, exact for whole numbers up to 2^53."""
        if self._control is None:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        with lost_peers_named():
            dist.all_reduce(sums, group=self._control)
        totals: list[float] = sums.tolist()
        return totals

    def any(self, flag: bool) -> bool:
        """Whether it is true on some rank."""
        return self.totals([float(flag)])[0] > 0

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in order of rank, on every rank."""
        if self._control is None:
            return [value]
        values: list[T] = [value] * self.num_processes
        with lost_peers_named():
            dist.all_gather_object(values, value, group=self._control)
        return values

    def on_first(self, act: Callable[[], T]) -> T:
        """Rank 0 acts, the others wait and get its result, or its error."""
        answer = _attempt(act) if self.is_first else (None, None)
        result, problem = self.gather(answer)[0]
        raise_shared([problem])
        return result  # type: ignore[return-value]  # without a problem there is a result

    def on_all(self, act: Callable[[], T]) -> T:
        """Every rank acts; where one fails, all raise its error, so that none waits for a rank that is gone."""
        result, problem = _attempt(act)
        raise_shared(self.gather(problem))
        return result  # type: ignore[return-value]

    def first_then_all(self, act: Callable[[], T]) -> T:
        """Rank 0 acts, then the first of each other node, then the rest: where a disk is shared, all but the first to
        see it find the work done."""
        turn = 0 if self.is_first else 1 if self.is_first_here else 2
        results = [self.on_all(act if now == turn else _nothing) for now in range(3)]
        return results[turn]  # type: ignore[return-value]  # the turn in which this process acted

    def tell(self, error: TrainerError) -> None:
        """Show an error that all ranks have, once, before any of them ends.

        torchrun ends all processes as soon as one has ended; the words and the exit codes would be lost.
        """
        if self._control is not None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if self.is_first:
                show_error(error)
            error.told = True
            dist.barrier(group=self._control)

    def close(self) -> None:
        """Leave the group; the process may form another one."""
        if dist.is_initialized():
            dist.destroy_process_group()
        if self._peers is not None:
            self._peers.leave()
        self.accelerator.state._reset_state(reset_partial_state=True)


@contextmanager
def opened_world(train: TrainConfig, environ: Mapping[str, str] = os.environ) -> Iterator[World]:
    """The world, left in good order. Raises EngineError where the machine or the way of starting is wrong."""
    world = World(*formed_group(train, environ))
    try:
        require_size("WORLD_SIZE", "the environment says", environ, world.num_processes)
        require_size("GPTOPS_EXPECTED_PROCESSES", "the run was asked to have", environ, world.num_processes)
        world.watch_peers(train.peer_timeout_seconds, environ)
        yield world
        world.part()
    except PeerLost as error:
        error.told = not world.is_first_here  # once for each node
        raise
    except TrainerError as error:
        if error.on_every_rank:
            world.tell(error)
        raise
    finally:
        world.close()


def _nothing() -> None:
    """What a process does whose turn it is not."""


def _attempt(act: Callable[[], T]) -> tuple[T | None, TrainerError | None]:
    try:
        with interruptible():
            return act(), None
    except TrainerError as error:
        return None, error
