"""Machines of one cluster are rented as a group: all of them, on a network of their own, or none, also after a kill.

Without hosts: what has to do with intents, creates and ends. With hosts: tests/launcher/test_rented_group_hosts.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launcher.books.budget import Limits
from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.errors import ExitCode, OfferGone, OverBudget, StillOpen, UsageError
from launcher.hosts.closing import end_instance
from launcher.managed.machines import fits
from launcher.paths import StatePaths
from launcher.providers.base import Wanted
from launcher.providers.by_name import open_networks
from launcher.renting.market import RentRequest
from launcher.spec.jobs import JobSpec
from tests.doubles.cloud import Reply
from tests.doubles.fixtures import vast_rows  # noqa: F401 (a fixture)
from tests.doubles.vast_api import CREATE, ONE, refusal, too_frequent
from tests.doubles.vast_cloud import VastCloud
from tests.doubles.vast_lan import OVERLAY
from tests.launcher.command_line import gptops
from tests.launcher.group_desk import GroupDesk
from tests.launcher.hurry import HurriedClock
from trainer.config import validated

# ruff: noqa: F811 (the fixture's name is a test's argument)

UP = ("up", "--nodes", "2", "--provider", "vast", "--gpus", "8", "--name", "duo", "--yes")
REQUEST = RentRequest(Wanted(gpus=8, disk_gib=20), "tests", image="an/image:1", name="duo", nodes=2, tries=1)


@dataclass
class Office(GroupDesk):
    """Somebody who rents groups at Vast."""

    vast: VastCloud = field(kw_only=True)

    def nothing_is_left(self) -> bool:
        assert self.vast.alive() == []
        assert self.vast.meter.per_hour == 0.0
        assert self.vast.overlays == {}
        return self.books_are_empty()


@pytest.fixture
def office(vast_rows: VastCloud, tmp_path: Path) -> Iterator[Office]:
    vast_rows.cluster(2, "H100 SXM", gpus=8, gpu_per_hour=16.0)
    state, clock = StatePaths(tmp_path / "state"), HurriedClock()
    with Ledger(state.ledger, clock) as ledger:
        yield Office("vast", REQUEST, state, ledger, clock, vast=vast_rows)


def test_when_a_later_machine_is_gone_the_earlier_ones_are_ended_and_the_network_with_them(office: Office) -> None:
    office.vast.fail("PUT", CREATE, too_frequent(4.5)[0])  # the first one: asked again, for nothing was done
    office.vast.fail("PUT", rf"/asks/{office.vast.market[-1]['id']}/", refusal(410, "no_such_ask", "no_such_ask gone"))
    with pytest.raises(OfferGone):
        office.rent()
    assert office.vast.count("PUT", CREATE) == 3
    assert office.nothing_is_left()
    assert "`duo` is gone: nothing is left open" in office.said


def test_a_machine_that_cannot_be_ended_is_named_with_its_price_and_the_command(office: Office) -> None:
    office.vast.fail("PUT", rf"/asks/{office.vast.market[-1]['id']}/", refusal(410, "no_such_ask", "no_such_ask gone"))
    office.vast.fail("DELETE", ONE, Reply(503, "<html>"), times=100_000)
    with pytest.raises(StillOpen) as raised:
        office.rent()
    assert raised.value.what == "`duo-0` may still exist and bill $16.00 an hour"
    assert raised.value.hint == "gptops down duo --discard"
    assert len(office.vast.overlays) == 1, "not deleted under a machine that may live"
    office.vast.forgive()
    office.leftovers()
    assert office.nothing_is_left()


def test_a_network_that_cannot_be_deleted_is_told_and_deleted_by_the_next_up(office: Office) -> None:
    office.vast.fail("PUT", rf"/asks/{office.vast.market[-1]['id']}/", refusal(410, "no_such_ask", "no_such_ask gone"))
    office.vast.fail("DELETE", OVERLAY, Reply(503, "<html>"), times=100_000)
    with pytest.raises(StillOpen) as raised:
        office.rent()
    assert "the private network gptops-" in raised.value.what
    assert "its machines are proven gone" in raised.value.hint
    assert office.vast.alive() == []
    office.vast.forgive()
    office.leftovers()
    assert office.nothing_is_left()


def test_a_network_that_is_refused_costs_no_machine(office: Office) -> None:
    office.vast.fail("POST", OVERLAY, refusal(400, "invalid_args", "no networks here today"))
    with pytest.raises(Exception, match="refused"):
        office.rent()
    assert office.vast.count("PUT", CREATE) == 0
    assert office.nothing_is_left()


def test_a_budget_an_hour_counts_all_machines(office: Office) -> None:
    with pytest.raises(OverBudget):
        office.rent(RentRequest(REQUEST.wanted, "tests", nodes=2, limits=Limits(max_usd_per_hour=20.0)))
    assert office.vast.count("POST", OVERLAY) == 0


@pytest.mark.parametrize(
    "point",
    [
        *("up:network_intended", "up:intended", "up:all_intended", "up:network_asked", "up:network_made"),
        *("up:created", "up:created_0", "up:created_1"),
    ],
)
def test_killed_while_a_group_is_opened_nothing_stays_unseen(office: Office, point: str, tmp_path: Path) -> None:
    killed = gptops(*UP, home=office.state.root, cwd=tmp_path, crash_at=point)
    assert killed.exit_code == -9, killed.stderr
    if point == "up:created":
        assert len(office.vast.alive()) == 1, "made, and not written down: its label finds it"
    office.gc() if point in ("up:created", "up:network_asked") else office.leftovers()
    assert office.nothing_is_left()


def opened(office: Office) -> list[InstanceRow]:
    """A group as the books and Vast have it when it is whole."""
    plans = office.renter.plans(REQUEST)
    label = plans[0].network_label
    office.ledger.intend_network(
        label=label, group_name="duo", provider="vast", project="tests", cluster_id=plans[0].offer.cluster_id
    )
    networks = open_networks("vast", office.clock)
    networks.create(plans[0].offer.cluster_id, plans[0].network)
    opener = office.renter.renter.opener()
    rows = [opener.create(plan, opener.intend(plan)) for plan in plans]
    office.ledger.mark_network(label, InstanceState.OPEN)
    return [office.ledger.mark_instance(row.label, InstanceState.OPEN) for row in rows]


def test_the_network_ends_with_the_last_machine_and_not_before(office: Office) -> None:
    first, second = opened(office)
    end_instance(first, office.provider, office.ledger, office.state, office.clock)
    assert len(office.vast.overlays) == 1
    end_instance(second, office.provider, office.ledger, office.state, office.clock)
    assert office.nothing_is_left()


@pytest.mark.parametrize("point", ["down:closed", "down:network_closing", "down:network_gone"])
def test_killed_while_it_is_ended_the_network_is_found_again(office: Office, point: str, tmp_path: Path) -> None:
    first, second = opened(office)
    end_instance(first, office.provider, office.ledger, office.state, office.clock)
    killed = gptops("down", second.name, "--discard", home=office.state.root, cwd=tmp_path, crash_at=point)
    assert killed.exit_code == -9, killed.stderr
    assert office.vast.alive() == []
    office.gc()
    assert office.nothing_is_left()


def test_a_group_that_is_whole_is_kept_and_one_that_is_not_is_ended(office: Office) -> None:
    rows = opened(office)
    office.gc()
    office.leftovers()
    assert len(office.vast.alive()) == 2
    office.ledger.mark_network(office.ledger.networks()[0].label, InstanceState.INTENDED)  # killed before it was whole
    assert rows[0].state is InstanceState.OPEN
    office.gc()
    assert office.nothing_is_left()


def test_a_second_group_of_the_same_name_is_refused_before_anything_is_asked(office: Office) -> None:
    opened(office)
    office.vast.cluster(2, "H100 SXM", gpus=8, cluster_id=78)
    asked = office.vast.count("POST", OVERLAY)
    with pytest.raises(UsageError, match="a group named `duo` is open already"):
        office.rent()
    assert office.vast.count("POST", OVERLAY) == asked
    assert len(office.vast.alive()) == 2, "and the first one is left as it is"
    assert not [line for line in office.said if "gone" in line]


@pytest.mark.parametrize(("nodes", "stays"), [(1, False), (2, True), (3, False)])
def test_in_a_chain_a_rented_group_stays_for_a_job_on_as_many_machines_alone(
    office: Office, nodes: int, stays: bool
) -> None:
    """Fewer would leave one that bills idle; more are not there."""
    rows = opened(office)
    job = validated(JobSpec, {"stage": "sft", "provider": "vast", "resources": {"nodes": nodes}}, source="", at="x")
    assert fits(rows[0], job, len(rows)) is stays


def test_a_leaked_network_is_found_by_its_name(office: Office) -> None:
    rows = opened(office)
    networks = office.ledger.networks()
    for row in rows:
        office.provider.destroy(str(row.instance_id))
        office.ledger.mark_instance(row.label, InstanceState.CLOSED)
    office.ledger.mark_network(networks[0].label, InstanceState.CLOSED)
    office.gc()
    assert office.nothing_is_left()


def test_where_no_cluster_has_enough_it_is_refused_with_the_reason_and_what_to_type(
    vast_rows: VastCloud, tmp_path: Path
) -> None:
    done = gptops(*UP, home=tmp_path / "state", cwd=tmp_path)
    assert done.exit_code == ExitCode.NO_OFFER, done.stderr
    assert "error: `vast` has no 2 machines with 8 GPUs" in done.stderr
    assert "no private network between the boxes" in done.stderr
    assert "gptops offers --gpus 16" in done.stderr
    assert vast_rows.count("POST", OVERLAY) == vast_rows.count("PUT", CREATE) == 0


def test_all_machines_are_counted_in_what_is_shown_before_money_is_spent(office: Office, tmp_path: Path) -> None:
    shown = gptops(*UP[:-1], "--dry-run", home=tmp_path / "other", cwd=tmp_path)
    assert "`duo`: 2 machines of cluster 77, each 8x H100 SXM, Oregon, US at `vast`" in shown.stderr
    assert "cost: $32.01 an hour, $768.20 a day" in shown.stderr
    assert "`duo-1`: offer" in shown.stderr
    listed = gptops("offers", "--nodes", "2", "--gpus", "8", home=tmp_path / "other", cwd=tmp_path)
    assert listed.exit_code == 0, listed.stderr
    assert "16x H100 SXM" in listed.stdout
    refused = gptops(*UP[:-1], home=tmp_path / "other", cwd=tmp_path)
    assert "this would cost $32.01 an hour" in refused.stderr
    assert office.vast.count("POST", OVERLAY) == 0
