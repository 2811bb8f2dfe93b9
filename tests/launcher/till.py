"""A double of Vast without hosts, a ledger and a clock of the test's: for what has to do with money alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.hosts.gc import Collected, Collector, Survey
from launcher.paths import StatePaths
from launcher.providers.api_keys import NoKey
from launcher.providers.base import CreateRequest, Provider, Wanted
from launcher.providers.by_name import open_provider
from tests.conftest import FakeClock
from tests.doubles.vast_cloud import VastCloud

WANTED = Wanted(gpus=1, disk_gib=20)


@dataclass
class Till:
    """What a test of money holds in its hands."""

    vast: VastCloud
    ledger: Ledger
    state: StatePaths
    clock: FakeClock
    said: list[str] = field(default_factory=list)
    keyless: tuple[str, ...] = ("runpod", "lambda_cloud")

    @property
    def provider(self) -> Provider:
        return open_provider("vast", self.state, clock=self.clock)

    def open(self, name: str) -> Provider:
        if name in self.keyless:
            raise NoKey(f"there is no API key for `{name}`", hint="export one")
        return open_provider(name, self.state, clock=self.clock)

    def intend(self, name: str = "box") -> InstanceRow:
        """An intent in the ledger, and nothing at the provider."""
        offer = self.provider.offers(WANTED)[0]
        return self.ledger.intend_instance(
            label=f"gptops:p:{name}", name=name, provider="vast", project="p", price_per_hour=offer.price_per_hour,
            gpus=1, gpu_name=offer.gpu_name, disk_per_hour=offer.disk_per_hour,
            upload_usd_per_gb=offer.upload_usd_per_gb, download_usd_per_gb=offer.download_usd_per_gb,
        )  # fmt: skip

    def create(self, label: str) -> str:
        """A machine at the provider, and nothing in the ledger."""
        offer = self.provider.offers(WANTED)[0]
        request = CreateRequest(
            label, image="pytorch/pytorch", disk_gib=WANTED.disk_gib, public_key="ssh-ed25519 AAAA test"
        )
        return self.provider.create(offer, request).instance_id

    def rent(self, name: str = "box") -> InstanceRow:
        """A machine that is open."""
        row = self.intend(name)
        instance = self.provider.get(self.create(row.label))
        assert instance is not None
        return self.ledger.mark_instance(
            row.label,
            InstanceState.OPEN,
            instance_id=instance.instance_id,
            price_per_hour=instance.price_per_hour,
            disk_per_hour=instance.disk_per_hour,
        )

    def collector(self) -> Collector:
        return Collector(self.ledger, self.state, self.clock, self.said.append, self.open)

    def gc(self, *, unknown_too: bool = False) -> tuple[Survey, Collected]:
        """Look and mend, as `gptops gc --yes` does."""
        survey = self.collector().survey(["local", "ssh", "vast", *self.keyless])
        return survey, self.collector().collect(survey, unknown_too=unknown_too)

    def states(self) -> dict[str, InstanceState]:
        return {row.name: row.state for row in self.ledger.instances(*InstanceState)}


@contextmanager
def a_till(folder: Path, clock: FakeClock, set_variable: Callable[[str, str], None]) -> Iterator[Till]:
    state = StatePaths(folder / "state")
    with VastCloud(folder / "vast", sshd=False, clock=clock) as vast, Ledger(state.ledger, clock) as ledger:
        set_variable("VAST_URL", vast.url)
        set_variable("VAST_API_KEY", vast.key)
        yield Till(vast, ledger, state, clock)


@pytest.fixture
def till(tmp_path: Path, fake_clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Till]:
    """Import it where it is needed."""
    with a_till(tmp_path, fake_clock, monkeypatch.setenv) as opened:
        yield opened
