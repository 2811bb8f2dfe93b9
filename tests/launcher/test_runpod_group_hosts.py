"""A cluster of RunPod on machines that are really there: reached over its own network, ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.errors import HostUnfit
from launcher.providers.base import Wanted
from launcher.renting.market import RentRequest
from tests.doubles.nodes import Nodes, reason_to_skip
from tests.doubles.rack import Rack
from tests.doubles.runpod import RunpodDouble
from tests.launcher.group_desk import Project
from trainer import manifest

pytestmark = pytest.mark.slow


@dataclass
class Hall(Project):
    """An account whose clusters have power for two pods, and somebody who rents them."""

    runpod: RunpodDouble = field(kw_only=True)

    def rent(self) -> list[InstanceRow]:
        """In this process, without a set-up: torch sees no GPU here."""
        wanted = Wanted(gpus=1, gpu_names=("H100",), disk_gib=20, nodes=2)
        request = RentRequest(wanted, "tests", "", "duo", nodes=2, tries=1)
        with Ledger(self.state.ledger, self.clock) as ledger:
            return self.desk(ledger, request).rent()

    def nothing_is_left(self) -> bool:
        assert self.runpod.alive == []
        assert self.runpod.clusters == {}
        assert self.runpod.meter.per_hour == 0.0
        return self.books_are_empty()


@pytest.fixture
def hall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hall]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    with Nodes(tmp_path / "lan", 2) as nodes, RunpodDouble(tmp_path / "cloud", with_hosts=True) as runpod:
        runpod.machines = Rack(nodes, interface="ens1")
        monkeypatch.setenv("RUNPOD_REST_URL", runpod.url)
        monkeypatch.setenv("RUNPOD_API_KEY", runpod.key)
        yield Hall("runpod", tmp_path, runpod=runpod)


def test_a_cluster_is_opened_as_a_group_and_ended_like_one_of_ones_own(hall: Hall) -> None:
    up = hall.gptops("up", "--job", "two", "--name", "duo", "--yes")
    assert (up.exit_code, up.stdout) == (0, "duo-0\nduo-1\n"), up.stderr
    assert "warning: `duo-0` cannot end its own bill" in up.stderr, "the others would end with it"
    assert "ends with `gptops down duo` alone" in up.stderr
    rows = hall.rows()
    assert [(row.state, row.group_name) for row in rows] == [(InstanceState.OPEN, "duo")] * 2
    assert [row.inside for row in rows] == ["10.65.0.2", "10.65.0.3"], "inside the cluster, not where SSH goes"
    assert [row.deadline for row in rows] == [None, None]

    down = hall.gptops("down", "duo")
    assert down.exit_code == 0, down.stderr
    assert "`duo` has no machine any more: its private network is deleted" in down.stderr
    assert hall.nothing_is_left()


def test_a_job_on_a_cluster_is_seen_through_from_nothing_to_nothing(hall: Hall) -> None:
    done = hall.gptops("run", "two", "--yes", "--skip-test")
    assert done.exit_code == 0, done.stdout + done.stderr
    assert "2 nodes met at 10.65.0.2:" in done.stderr
    [run] = (hall.root / "runs").glob("two-*")
    assert [manifest.verify(path).step for path in manifest.checkpoints(run / "checkpoints")] == [2]
    assert hall.nothing_is_left()


def test_a_pod_without_its_address_in_the_cluster_ends_all_of_them(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.doubles.rack.RackMachine.join", lambda *_: None)
    with pytest.raises(HostUnfit) as raised:
        hall.rent()
    assert "has no address in the private network gptops-" in raised.value.what
    assert "one 10.65.0." in raised.value.why
    assert hall.nothing_is_left()
