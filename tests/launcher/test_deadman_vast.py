"""A rented machine ends its own bill: the real switch on a real host, against the double of Vast's API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.books.ledger import Ledger
from launcher.clock import SystemClock
from launcher.errors import Unreachable
from launcher.hosts.deadman import Armer, SwitchPlan, arm
from launcher.paths import StatePaths
from launcher.providers.base import CreateRequest, OffSwitch, Status, Wanted
from launcher.providers.by_name import open_provider
from launcher.remote.host import Host
from launcher.remote.keys import ensure_key, public_line
from launcher.remote.pinning import pin, shown_key
from launcher.remote.ssh import SshTransport
from tests.doubles.cloud import Reply
from tests.doubles.fixtures import vast  # noqa: F401 (a fixture)
from tests.doubles.vast_cloud import VastCloud
from tests.launcher.waiting import wait_until

# ruff: noqa: F811 (the fixture's name is a test's argument)

GENEROUS_SECONDS = 90.0


@pytest.fixture
def rented(vast: VastCloud, tmp_path: Path) -> Iterator[SshTransport]:
    """A connection to a machine of the double that is open."""
    state = StatePaths(tmp_path / "state")
    ensure_key(state.private_key)
    provider = open_provider("vast", state)
    key = public_line(state.private_key)
    offer = provider.offers(Wanted(gpus=1, disk_gib=20))[0]
    created = provider.create(offer, CreateRequest("gptops:p:1", "pytorch/pytorch", 20, key))
    provider.authorize(created.instance_id, key)

    def answering() -> Host | None:
        instance = provider.get(created.instance_id)
        if instance is None or instance.status is not Status.RUNNING:
            return None
        host = Host("box", instance.addresses[:1], state.private_key, state.known_hosts("box"))
        try:
            pin(host, shown_key(host.addresses[0], timeout_seconds=30))
        except Unreachable:
            return None
        return host

    host = wait_until(answering, seconds=GENEROUS_SECONDS, what="a machine that answers")
    assert host is not None
    transport = SshTransport(host, SystemClock(), control_sockets=state.control_sockets)
    yield transport
    transport.close()


def test_an_idle_machine_ends_its_bill_with_its_own_key_though_the_api_refuses_at_first(
    vast: VastCloud, rented: SshTransport
) -> None:
    vast.fail("DELETE", r"/instances/\d+", Reply(429, "API requests too frequent"))
    switch = arm(rented, SwitchPlan(OffSwitch.VAST, 3600, 5400, idle_seconds=1, renewable=False, pulse_seconds=1))
    assert (switch.watching, switch.can_end) == (True, True)
    wait_until(lambda: vast.alive() == [], seconds=GENEROUS_SECONDS, what="the machine has ended itself")
    deletes = [asked for asked in vast.requests if asked.method == "DELETE"]
    assert [asked.status for asked in deletes] == [429, 200]
    assert vast.key not in deletes[-1].headers["authorization"], "the account's key never leaves this computer"
    vast.time.advance(100 * 3600)
    assert vast.meter.per_hour == 0


def test_what_the_ledger_says_of_the_deadline_is_what_the_machine_keeps(
    vast: VastCloud, rented: SshTransport, tmp_path: Path
) -> None:
    clock, state = SystemClock(), StatePaths(tmp_path / "state")
    with Ledger(state.ledger, clock) as ledger:
        row = ledger.intend_instance(
            label="gptops:p:1", name="box", provider="vast", project="p", price_per_hour=2, gpus=1, gpu_name="A"
        )
        armed = Armer(ledger, state, clock, lambda line: None).arm(row, OffSwitch.VAST, rented, hours=2.0)
    assert armed.deadline == pytest.approx(clock.now() + 7200, abs=600)
