"""Somebody who rents machines as a group: in a hurry against a double's rows, or in real time against its machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from launcher.books.ledger import InstanceRow, Ledger
from launcher.clock import Clock, SystemClock
from launcher.hosts.closing import finish_leftovers
from launcher.hosts.gc import Collector
from launcher.hosts.opening import Guard
from launcher.nodes.cluster_renting import ClusterRenter
from launcher.paths import StatePaths
from launcher.providers.base import Provider
from launcher.providers.by_name import open_networks, open_provider
from launcher.renting.market import RentRequest
from tests.launcher.command_line import Finished, gptops

JOBS = """\
jobs:
  two:
    stage: pretrain
    provider: PROVIDER
    resources: {nodes: 2, gpus: 0, disk_gib: 8}
    env: {OMP_NUM_THREADS: 1}
    sync: {every_seconds: 2}
    train:
      model: {d_model: 16, n_layers: 1, n_heads: 2, max_seq_len: 16}
      data: {path: corpus.txt, tokenizer: {kind: bytes}}
      train: {max_steps: 2, global_batch_size: 4, micro_batch_size: 2}
      schedule: {warmup_steps: 1}
      log: {every_steps: 1}
"""


@dataclass
class GroupDesk:
    """The books of one user of one provider, and what a group is rented with."""

    market: str
    """The provider's name."""
    request: RentRequest
    state: StatePaths
    ledger: Ledger
    clock: Clock
    said: list[str] = field(default_factory=list)

    @property
    def provider(self) -> Provider:
        return open_provider(self.market, self.state, clock=self.clock)

    @property
    def renter(self) -> ClusterRenter:
        return self.renter_with(None)

    def renter_with(self, guard: Callable[[Ledger], Guard] | None) -> ClusterRenter:
        networks = open_networks(self.market, self.clock)
        return ClusterRenter(self.provider, networks, self.ledger, self.state, self.clock, self.said.append, guard)

    def rent(self, request: RentRequest | None = None) -> list[InstanceRow]:
        return self.renter.rent(request or self.request, None)

    def leftovers(self) -> None:
        finish_leftovers(self.ledger, self.state, self.clock, self.said.append)

    def gc(self) -> None:
        collector = Collector(self.ledger, self.state, self.clock, self.said.append, lambda _name: self.provider)
        assert collector.collect(collector.survey([self.market])).failed == []

    def books_are_empty(self) -> bool:
        assert self.ledger.instances() == []
        assert self.ledger.networks() == []
        return True


@dataclass
class Project:
    """A project of somebody who types: one job on two machines of a market."""

    market: str
    folder: Path
    clock: SystemClock = field(default_factory=SystemClock)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state, self.root = StatePaths(self.folder / "state"), self.folder / "project"
        self.root.mkdir()
        (self.root / "jobs.yaml").write_text(JOBS.replace("PROVIDER", self.market))
        (self.root / "corpus.txt").write_text("To be, or not to be, that is the question.\n" * 200)

    def gptops(self, *words: str, crash_at: str = "") -> Finished:
        return gptops(*words, home=self.state.root, cwd=self.root, crash_at=crash_at)

    def desk(self, ledger: Ledger, request: RentRequest) -> GroupDesk:
        """The same user, in this process."""
        return GroupDesk(self.market, request, self.state, ledger, self.clock, self.said)

    def rows(self) -> list[InstanceRow]:
        with Ledger(self.state.ledger, self.clock) as ledger:
            return sorted(ledger.instances(), key=lambda row: row.name)

    def books_are_empty(self) -> bool:
        with Ledger(self.state.ledger, self.clock) as ledger:
            assert ledger.instances() == []
            assert ledger.networks() == []
        return True
