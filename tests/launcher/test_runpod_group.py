"""RunPod's clusters: made at once, found by their names, ended as a whole; a group is there whole or not at all.

Without hosts, as tests/launcher/test_rented_group.py is for Vast. With hosts: test_runpod_group_hosts.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceRow, InstanceState, Ledger, RunRow, RunState
from launcher.errors import Busy, ExitCode, GptopsError, ProviderError, StillOpen
from launcher.hosts.closing import end_instance
from launcher.hosts.steps import Lines
from launcher.lock import hold
from launcher.managed import machines
from launcher.managed.errand import Errand
from launcher.managed.here import Choices, Here, checked_jobs
from launcher.managed.outside import Outside
from launcher.paths import StatePaths
from launcher.project import find_project
from launcher.providers.base import Status, Wanted
from launcher.providers.by_name import open_networks
from launcher.providers.runpod import runpod_api
from launcher.renting.market import RentRequest
from launcher.running.tick import Talk
from tests.doubles.cloud import DROPPED, Reply
from tests.doubles.runpod import Plan, RunpodDouble, problem
from tests.doubles.runpod_clusters import SHARE, violations
from tests.launcher.checkpoint_maker import silent
from tests.launcher.command_line import gptops
from tests.launcher.group_desk import GroupDesk, Project
from tests.launcher.hurry import HurriedClock

UP = ("up", "--nodes", "2", "--provider", "runpod", "--gpus", "8", "--gpu", "H100", "--name", "duo", "--yes")
WANTED = Wanted(gpus=8, gpu_names=("H100",), disk_gib=20, nodes=2)
REQUEST = RentRequest(WANTED, "tests", image="an/image:1", name="duo", nodes=2, tries=1)
CLUSTERS, CLUSTER = r"^/v2/clusters$", r"^/v2/clusters/"


@dataclass
class Office(GroupDesk):
    """Somebody who rents clusters at RunPod."""

    runpod: RunpodDouble = field(kw_only=True)

    def opened(self) -> list[InstanceRow]:
        """A group as the books and RunPod have it when it is whole."""
        plans = self.renter.plans(REQUEST)
        label, place = plans[0].network_label, plans[0].offer.cluster_id
        self.ledger.intend_network(label=label, group_name="duo", provider="runpod", project="tests", cluster_id=place)
        opener = self.renter.renter.opener()
        rows = [opener.intend(plan) for plan in plans]
        machines = [(plan.offer, plan.request("ssh-ed25519 AAAA gptops")) for plan in plans]
        open_networks("runpod", self.clock).create(place, plans[0].network, machines)
        for plan, row in zip(plans, rows, strict=True):
            opener.create(plan, row)
        self.ledger.mark_network(label, InstanceState.OPEN)
        return [self.ledger.mark_instance(row.label, InstanceState.OPEN) for row in rows]

    def nothing_is_left(self) -> bool:
        assert self.runpod.alive == []
        assert self.runpod.clusters == {}
        assert self.runpod.meter.per_hour == 0.0
        return self.books_are_empty()


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    state, clock = StatePaths(tmp_path / "state"), HurriedClock()
    with RunpodDouble(tmp_path / "cloud") as runpod, Ledger(state.ledger, clock) as ledger:
        monkeypatch.setenv("RUNPOD_REST_URL", runpod.url)
        monkeypatch.setenv("RUNPOD_API_KEY", runpod.key)
        yield Office("runpod", REQUEST, state, ledger, clock, runpod=runpod)


def test_one_request_makes_all_machines_and_each_is_known_by_its_rank(office: Office) -> None:
    rows = office.opened()
    [(cluster_id, body)] = office.runpod.clusters.items()
    assert office.runpod.count("POST", CLUSTERS) == 1
    assert office.runpod.count("POST", r"^/v2/pods$") == 0
    assert violations(body) == []
    assert body["compute"] == {"gpuTypeId": "NVIDIA H100 80GB HBM3", "gpuCountPerPod": 8, "podCount": 2}
    assert body["dataCenterIds"] == ["EU-RO-1"]
    assert [row.instance_id for row in rows] == [f"{cluster_id}/pod0000001", f"{cluster_id}/pod0000002"]
    found = [office.provider.get(str(row.instance_id)) for row in rows]
    assert [each.label for each in found if each] == [row.label for row in rows]
    assert [each.inside for each in found if each] == ["10.65.0.2", "10.65.0.3"]
    assert [each.gpus for each in found if each] == [8, 8]


def test_a_pod_of_a_cluster_has_no_label_before_it_has_a_rank(office: Office) -> None:
    office.runpod.next = Plan(provisioning_polls=5)
    office.opened()
    assert office.runpod.count("GET", r"^/v2/pods$") >= 5, "asked again until it was placed"


def test_the_price_is_more_than_the_pods_of_the_catalog_and_the_pods_own_word_counts_at_the_end(office: Office) -> None:
    offers = [offer for offer in office.provider.offers(WANTED) if "H100" in offer.gpu_name]
    assert {offer.cluster_id for offer in offers} == {"EU-RO-1", "US-KS-2"}
    assert len({offer.offer_id for offer in offers}) == len(offers) == 4, "one for each machine of each place"
    assert offers[0].price_per_hour - offers[0].disk_per_hour == pytest.approx(SHARE * 8 * 2.69)
    asked = [each.query for each in office.runpod.requests if each.path == "/v2/catalog/gpus"]
    assert [query["product"] for query in asked] == ["CLUSTER"]
    [row, _] = office.opened()
    instance = office.provider.get(str(row.instance_id))
    assert instance is not None
    assert instance.price_per_hour == pytest.approx(offers[0].price_per_hour)


def test_a_lost_answer_to_the_create_is_found_again_by_the_clusters_name(office: Office) -> None:
    office.runpod.fail("POST", CLUSTERS, DROPPED, when="after")
    office.runpod.next = Plan(ends_as="ERROR")
    with pytest.raises(GptopsError, match="did not start"):  # it was looked for, and seen to fail
        office.rent()
    assert office.runpod.count("POST", CLUSTERS) == 1, "never asked twice"
    assert office.ledger.instances(InstanceState.CLOSED)[0].instance_id is not None, "its machines were found"
    assert office.nothing_is_left()


def test_a_place_without_room_costs_nothing_and_the_next_one_is_asked(office: Office) -> None:
    office.runpod.fail("POST", CLUSTERS, problem(400, "Bad Request", "Insufficient resources"), times=10)
    with pytest.raises(GptopsError, match="no machine became ready"):
        office.rent()
    asked = [each.body["dataCenterIds"] for each in office.runpod.requests if each.path == "/v2/clusters" and each.body]
    assert asked == [["EU-RO-1"], ["US-KS-2"]]
    assert office.runpod.meter.total == 0.0
    assert office.nothing_is_left()


def test_a_pod_that_fails_ends_the_whole_cluster(office: Office) -> None:
    office.runpod.next = Plan(ends_as="ERROR")
    with pytest.raises(GptopsError):
        office.rent()
    assert office.runpod.count("POST", CLUSTERS) == 1
    assert office.nothing_is_left()
    assert "`duo` is gone: nothing is left open" in office.said


def test_a_cluster_that_costs_more_than_was_agreed_to_is_ended(office: Office) -> None:
    office.runpod.next = Plan(costs=40.0)
    with pytest.raises(GptopsError) as raised:
        office.rent()
    assert "it costs $40.00/h, and was offered for $25.83/h" in f"{raised.value.what} {raised.value.why}"
    assert office.nothing_is_left()


def test_a_cluster_that_cannot_be_deleted_is_named_with_its_price_and_the_command(office: Office) -> None:
    office.runpod.next = Plan(ends_as="ERROR")
    office.runpod.fail("DELETE", CLUSTER, Reply(503, "<html>"), times=100_000)
    with pytest.raises(StillOpen) as raised:
        office.rent()
    assert "`duo-0` may still exist and bill $25.8" in raised.value.what
    assert raised.value.hint == "gptops down duo --discard"
    office.runpod.forgive()
    office.leftovers()
    assert office.nothing_is_left()


def test_a_pod_that_outlives_its_cluster_is_not_believed_to_be_gone(office: Office) -> None:
    office.runpod.next = Plan(lingers_polls=4)
    first, _ = office.opened()
    office.provider.destroy(str(first.instance_id))
    assert office.runpod.clusters == {}
    still = office.provider.get(str(first.instance_id))
    assert still is not None
    assert still.label == first.label
    for row in office.ledger.instances():
        end_instance(row, office.provider, office.ledger, office.state, office.clock)
    assert office.provider.get(str(first.instance_id)) is None
    assert office.nothing_is_left()


@pytest.mark.parametrize(
    "point", ["up:network_intended", "up:all_intended", "up:network_asked", "up:network_made", "up:created_0"]
)
def test_killed_while_a_cluster_is_made_nothing_stays_unseen(office: Office, point: str, tmp_path: Path) -> None:
    killed = gptops(*UP, home=office.state.root, cwd=tmp_path, crash_at=point)
    assert killed.exit_code == -9, killed.stderr
    made = point in ("up:network_asked", "up:network_made", "up:created_0")
    assert len(office.runpod.alive) == (2 if made else 0)
    office.gc() if point == "up:network_asked" else office.leftovers()
    assert office.nothing_is_left()


@pytest.mark.parametrize("point", ["down:destroyed", "down:closed", "down:network_closing", "down:network_gone"])
def test_killed_while_it_is_ended_the_rest_is_found_again(office: Office, point: str, tmp_path: Path) -> None:
    office.opened()
    killed = gptops("down", "duo", "--discard", home=office.state.root, cwd=tmp_path, crash_at=point)
    assert killed.exit_code == -9, killed.stderr
    office.gc()
    assert office.nothing_is_left()


def test_a_group_is_ended_by_its_name_and_one_machine_of_it_is_not(office: Office, tmp_path: Path) -> None:
    office.opened()
    alone = gptops("down", "duo-1", "--discard", home=office.state.root, cwd=tmp_path)
    assert alone.exit_code == ExitCode.USAGE, alone.stderr
    assert "`runpod` ends the machines of `duo` together" in alone.stderr
    assert "gptops down duo" in alone.stderr
    assert len(office.runpod.alive) == 2
    down = gptops("down", "duo", "--discard", home=office.state.root, cwd=tmp_path)
    assert down.exit_code == 0, down.stderr
    assert office.runpod.count("DELETE", CLUSTER) == 1
    assert office.nothing_is_left()


def test_every_machine_is_asked_what_is_on_it_alone_before_the_first_ends_them_all(
    office: Office, tmp_path: Path
) -> None:
    _, last = office.opened()
    run = ("demo-1", "demo", last.name, last.label, str(tmp_path), str(tmp_path / "demo-1"), 1.0)
    office.ledger.add_run(RunRow(*run, RunState.RUNNING, None, True, 2))
    office.runpod.stop(str(last.instance_id).partition("/")[2])
    refused = gptops("down", "duo", home=office.state.root, cwd=tmp_path)
    assert refused.exit_code != 0
    assert "`duo-1` was not ended: what lies there alone cannot be known" in refused.stderr
    assert "gptops down duo --discard" in refused.stderr
    assert office.runpod.count("DELETE", CLUSTER) == 0
    assert len(office.runpod.alive) == 2


@pytest.mark.parametrize("lock", ["host_lock", "start_lock"])
def test_an_errand_holds_every_machine_before_the_first_ends_them_all(
    office: Office, tmp_path: Path, lock: str
) -> None:
    first, last = office.opened()
    project = Project("runpod", tmp_path)
    errand = Errand(
        errand_id="two-1", project_root=str(project.root), jobs=("two",), host_name="duo", label=first.label
    )
    outside = outside_of(errand, project, office)
    with hold(getattr(office.state, lock)(last.name), "gptops sync", office.clock), pytest.raises(Busy):
        machines.end(errand, outside)
    assert office.runpod.count("DELETE", CLUSTER) == 0
    assert [row.state for row in office.ledger.group("duo")] == [InstanceState.OPEN] * 2
    machines.end(errand, outside)
    assert office.runpod.count("DELETE", CLUSTER) == 1
    assert office.nothing_is_left()


def outside_of(errand: Errand, project: Project, office: Office) -> Outside:
    """As the command line makes it."""
    found, say = find_project(project.root), office.said.append
    talk, steps = Talk(silent, lambda _pulled: None, say), Lines(say, office.clock)
    jobs = checked_jobs(found, errand.jobs)
    here = Here(found, jobs, office.ledger, office.state, office.clock, steps, talk, Choices())
    return here.outside(errand, lambda _view: None)


def test_a_pod_of_a_cluster_is_never_deleted_by_itself(office: Office) -> None:
    first, _ = office.opened()
    pod = str(first.instance_id).partition("/")[2]
    with pytest.raises(ProviderError, match="does not delete the pod"):
        office.provider.destroy(pod)
    assert len(office.runpod.alive) == 2


def test_a_leaked_cluster_is_found_though_the_ledger_has_it_closed(office: Office) -> None:
    for row in office.opened():
        office.ledger.mark_instance(row.label, InstanceState.CLOSED)
    office.ledger.mark_network(office.ledger.networks()[0].label, InstanceState.CLOSED)
    office.gc()
    assert office.nothing_is_left()


def test_a_cluster_of_somebody_else_is_not_ours(office: Office) -> None:
    office.opened()
    shape = {"gpuTypeId": "NVIDIA H100 80GB HBM3", "gpuCountPerPod": 8, "podCount": 2}
    body = {"name": "mine", "type": "TRAINING", "image": "runpod/pytorch", "disk": 50, "compute": shape}
    runpod_api(office.clock).call("POST", "/clusters", endpoint="write", body=body)  # made in the console
    assert len(office.runpod.clusters) == 2
    networks = open_networks("runpod", office.clock)
    assert len(office.provider.labelled("gptops:")) == 2
    assert len(networks.named("gptops-")) == 1
    assert {each.status for each in office.provider.labelled("gptops:")} <= {Status.STARTING, Status.RUNNING}


def test_single_pods_are_asked_for_as_before(office: Office) -> None:
    offer = office.provider.offers(Wanted(gpus=1))[0]
    assert offer.cluster_id == ""
    assert {each.query["product"] for each in office.runpod.requests if "catalog" in each.path} == {"POD"}


def test_all_machines_are_counted_before_money_is_spent(office: Office, tmp_path: Path) -> None:
    shown = gptops(*UP[:-1], "--dry-run", home=tmp_path / "other", cwd=tmp_path)
    assert "`duo`: 2 machines of cluster EU-RO-1, each 8x NVIDIA H100 80GB HBM3" in shown.stderr, shown.stderr
    assert "cost: $51." in shown.stderr
    words = ("offers", "--nodes", "2", "--gpus", "8", "--provider", "runpod")
    listed = gptops(*words, home=tmp_path / "other", cwd=tmp_path)
    assert listed.exit_code == 0, listed.stderr
    assert "16x NVIDIA H100" in listed.stdout, listed.stdout
    assert office.runpod.clusters == {}
