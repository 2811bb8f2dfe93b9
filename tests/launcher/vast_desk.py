"""What the tests of Vast share: the provider over the double, and short words for its questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.providers.api_keys import ApiKey
from launcher.providers.base import CreateRequest, Instance, Offer, Wanted
from launcher.providers.http import Api
from launcher.providers.vast import PAUSES, VastProvider
from tests.conftest import FakeClock
from tests.doubles.vast_cloud import VastCloud

KEY_LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGptopsTestKeyGptopsTestKeyGptopsTestKeyAA gptops"
LABEL = "gptops:tests:0a1b"


@dataclass
class Desk:
    """A user of Vast."""

    vast: VastCloud
    provider: VastProvider
    clock: FakeClock

    def offer(self, *, gpus: int = 1, spot: bool = False, bid: float | None = None) -> Offer:
        """The cheapest."""
        return self.provider.offers(Wanted(gpus=gpus, spot=spot, bid=bid, disk_gib=20))[0]

    def create(
        self, offer: Offer | None = None, *, bid: float | None = None, label: str = LABEL, image: str = "an/image:1"
    ) -> Instance:
        return self.provider.create(offer or self.offer(), CreateRequest(label, image, 20, KEY_LINE, bid))

    def running(self, **script: object) -> Instance:
        """An instance that Vast says is running."""
        if script:
            self.vast.next(**script)
        instance = self.create()
        self.vast.time.advance(60)
        found = self.provider.get(instance.instance_id)
        assert found is not None
        return found

    def get(self, instance: Instance) -> Instance:
        found = self.provider.get(instance.instance_id)
        assert found is not None
        return found


def provider_of(vast: VastCloud, clock: FakeClock, *, key: str = "", paced: bool = False) -> VastProvider:
    """Over the double; with the vendor's pauses where `paced`."""
    api_key = ApiKey("vast", key or vast.key, "a test")
    return VastProvider(Api(vast.url, lambda: api_key, provider="vast", clock=clock, pauses=PAUSES if paced else {}))


@pytest.fixture
def desk(tmp_path: Path, fake_clock: FakeClock) -> Iterator[Desk]:
    """Without hosts: instances are rows. Nothing may bill at the end unless the test says so."""
    with VastCloud(tmp_path / "vast", sshd=False) as vast:
        yield Desk(vast, provider_of(vast, fake_clock), fake_clock)
