"""A rented group on machines that are really there: ready, alike, reached over their own network, trained on, ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.errors import HostUnfit
from launcher.hosts.closing import finish_leftovers
from launcher.hosts.deadman import Armer
from launcher.hosts.opening import Guard
from launcher.providers.base import OffSwitch, Wanted
from launcher.remote.transport import Transport
from launcher.renting.market import RentRequest
from tests.doubles.nodes import Nodes, reason_to_skip
from tests.doubles.rack import Rack
from tests.doubles.vast_cloud import VastCloud
from tests.launcher.group_desk import Project
from trainer import manifest

pytestmark = pytest.mark.slow


@dataclass
class Hall(Project):
    """A market with two machines on one cluster, power for four, and somebody who rents them."""

    vast: VastCloud = field(kw_only=True)

    def rent(self, *, gpus: int = 1, tries: int = 1) -> list[InstanceRow]:
        """In this process, without a set-up: torch sees no GPU here."""
        request = RentRequest(Wanted(gpus=gpus, disk_gib=20), "tests", "an/image:1", "duo", nodes=2, tries=tries)
        with Ledger(self.state.ledger, self.clock) as ledger:
            return self.desk(ledger, request).renter_with(self.guard).rent(request, None)

    def guard(self, ledger: Ledger) -> Guard:
        def arm(row: InstanceRow, transport: Transport) -> InstanceRow:
            return Armer(ledger, self.state, self.clock, self.said.append).arm(row, OffSwitch.VAST, transport)

        return arm

    def nothing_is_left(self) -> bool:
        assert self.vast.alive() == []
        assert self.vast.meter.per_hour == 0.0
        assert self.vast.overlays == {}
        return self.books_are_empty()


@pytest.fixture
def hall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hall]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    with Nodes(tmp_path / "lan", 4) as nodes, VastCloud(tmp_path / "vast") as vast:
        vast.machines = Rack(nodes)
        vast.cluster(2, "H100 SXM", gpu_per_hour=2.0)
        monkeypatch.setenv("VAST_URL", vast.url)
        monkeypatch.setenv("VAST_API_KEY", vast.key)
        yield Hall("vast", tmp_path, vast=vast)


def test_a_rented_group_is_opened_and_ended_like_one_of_ones_own(hall: Hall) -> None:
    up = hall.gptops("up", "--job", "two", "--name", "duo", "--yes")
    assert (up.exit_code, up.stdout) == (0, "duo-0\nduo-1\n"), up.stderr
    assert "2 nodes are ready; `gptops down duo` ends them" in up.stderr
    rows = hall.rows()
    assert [(row.state, row.group_name) for row in rows] == [(InstanceState.OPEN, "duo")] * 2
    assert sorted(row.inside for row in rows) == ["10.1.0.1", "10.1.0.2"], "inside the overlay, not where SSH goes"
    assert all(row.deadline for row in rows), "each ends itself, whatever becomes of us"

    down = hall.gptops("down", "duo")
    assert down.exit_code == 0, down.stderr
    assert "`duo` has no machine any more: its private network is deleted" in down.stderr
    assert hall.nothing_is_left()


def test_a_job_on_a_rented_group_is_seen_through_from_nothing_to_nothing(hall: Hall) -> None:
    done = hall.gptops("run", "two", "--yes", "--skip-test")
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "`two` rents at `vast`: at any price, for each of its 2 machines, without a limit in all" in done.stderr
    assert "2 nodes met at 10.1.0.1:" in done.stderr
    assert "over eth0" in done.stderr
    [run] = (hall.root / "runs").glob("two-*")
    assert [manifest.verify(path).step for path in manifest.checkpoints(run / "checkpoints")] == [2]
    assert hall.nothing_is_left()


def test_a_machine_with_broken_gpus_ends_all_of_them_and_the_next_cluster_is_taken(hall: Hall) -> None:
    hall.vast.cluster(2, "H100 SXM", gpu_per_hour=2.2, cluster_id=78)
    hall.vast.next()
    hall.vast.script("broken_nvidia_smi")
    rows = hall.rent(tries=2)
    assert [row.name for row in rows] == ["duo-0", "duo-1"]
    assert len(hall.vast.alive()) == 2
    [overlay] = hall.vast.overlays.values()
    assert overlay.cluster_id == 78
    broken = hall.vast.market[-3]
    with Ledger(hall.state.ledger, hall.clock) as ledger:
        assert set(ledger.bad_machines("vast")) == {str(broken["machine_id"])}, "the other one did nothing wrong"


def test_when_one_machine_fails_the_others_are_not_waited_for_and_its_error_is_the_one_told(hall: Hall) -> None:
    hall.vast.next(stays="loading")  # a quarter of an hour, where nobody gave it up
    hall.vast.script("broken_nvidia_smi")
    with pytest.raises(HostUnfit) as raised:
        hall.rent()
    assert raised.value.what == "`duo-1` shows no GPUs"
    assert hall.nothing_is_left()
    with Ledger(hall.state.ledger, hall.clock) as ledger:
        assert list(ledger.bad_machines("vast")) == [str(hall.vast.market[-1]["machine_id"])]


def test_machines_that_turn_out_unlike_are_all_ended_and_none_is_blamed(hall: Hall) -> None:
    hall.vast.next(driver="570.10")
    with pytest.raises(HostUnfit) as raised:
        hall.rent()
    assert raised.value.what == "the nodes are not alike"
    assert hall.nothing_is_left()
    with Ledger(hall.state.ledger, hall.clock) as ledger:
        assert ledger.bad_machines("vast") == {}


def test_a_machine_without_an_address_in_the_network_ends_all_of_them(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.doubles.rack.RackMachine.join", lambda *_: None)
    with pytest.raises(HostUnfit) as raised:
        hall.rent()
    assert "has no address in the private network gptops-" in raised.value.what
    assert hall.nothing_is_left()


def test_where_no_subnet_is_told_the_vendors_word_for_the_interface_is_taken(hall: Hall) -> None:
    hall.vast.tells_subnets = False
    assert sorted(row.inside for row in hall.rent()) == ["10.1.0.1", "10.1.0.2"]


def test_killed_before_the_group_is_whole_its_open_machines_are_ended_too(hall: Hall) -> None:
    killed = hall.gptops("up", "--job", "two", "--name", "duo", "--yes", crash_at="up:all_ready")
    assert killed.exit_code == -9, killed.stderr
    assert [row.state for row in hall.rows()] == [InstanceState.OPEN] * 2
    with Ledger(hall.state.ledger, hall.clock) as ledger:
        finish_leftovers(ledger, hall.state, hall.clock, hall.said.append)
    assert hall.nothing_is_left()
