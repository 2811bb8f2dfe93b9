"""Which host and which run a word means."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.books.ledger import InstanceState, Ledger, RunRow, RunState
from launcher.clock import Clock
from launcher.errors import NotFound, UsageError
from launcher.running.select import pick_host, pick_run


@pytest.fixture
def ledger(tmp_path: Path, fake_clock: Clock) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite3", fake_clock)


def add_host(ledger: Ledger, name: str, state: InstanceState = InstanceState.OPEN) -> str:
    label = f"gptops:p:{name}"
    ledger.intend_instance(label=label, name=name, provider="local", project="p", price_per_hour=0, gpus=0, gpu_name="")
    ledger.mark_instance(label, state)
    return label


def add_run(ledger: Ledger, run_id: str, label: str, state: RunState = RunState.RUNNING) -> None:
    ledger.add_run(RunRow(run_id, "demo", "h", label, "/p", "/r", float(len(ledger.runs())), state, None, True, 2))


def test_the_only_open_host_needs_no_name(ledger: Ledger) -> None:
    add_host(ledger, "one")
    add_host(ledger, "old", InstanceState.CLOSED)
    add_host(ledger, "begun", InstanceState.INTENDED)
    assert pick_host(ledger, None).name == "one"


def test_no_open_host_says_how_to_open_one(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="no host is open") as raised:
        pick_host(ledger, None)
    assert raised.value.hint == "gptops up"


def test_several_open_hosts_are_listed(ledger: Ledger) -> None:
    add_host(ledger, "one")
    add_host(ledger, "two")
    with pytest.raises(UsageError, match="say which") as raised:
        pick_host(ledger, None)
    assert "one" in raised.value.why
    assert "two" in raised.value.why


@pytest.mark.parametrize(
    ("provider", "hint"),
    [("ssh", "gptops up --nodes 2 --host pair"), ("vast", "gptops up --nodes 2 --provider vast --name pair")],
)
def test_a_group_that_was_closed_is_told_as_one(ledger: Ledger, provider: str, hint: str) -> None:
    for name in ("box1", "box2"):
        label = f"gptops:p:{name}"
        ledger.intend_instance(
            label=label, name=name, provider=provider, project="p", price_per_hour=0, gpus=0, gpu_name="",
            group_name="pair",
        )  # fmt: skip
        ledger.mark_instance(label, InstanceState.CLOSED)
    with pytest.raises(NotFound, match="no machine of the group `pair` is open") as raised:
        pick_host(ledger, "pair")
    assert raised.value.hint == hint


def test_a_unique_beginning_is_enough(ledger: Ledger) -> None:
    add_host(ledger, "local-3f2a")
    add_host(ledger, "local-3f7c")
    assert pick_host(ledger, "local-3f2").name == "local-3f2a"
    with pytest.raises(UsageError, match="several hosts fit"):
        pick_host(ledger, "local-3f")


def test_a_whole_name_wins_over_longer_ones(ledger: Ledger) -> None:
    add_host(ledger, "box")
    add_host(ledger, "box-2")
    assert pick_host(ledger, "box").name == "box"


def test_an_unknown_host_names_the_known_ones(ledger: Ledger) -> None:
    add_host(ledger, "one")
    with pytest.raises(NotFound, match="no host `two`") as raised:
        pick_host(ledger, "two")
    assert "one" in raised.value.why


def test_the_living_run_is_meant_before_ended_ones(ledger: Ledger) -> None:
    label = add_host(ledger, "one")
    add_run(ledger, "demo-1", label, RunState.ENDED)
    add_run(ledger, "demo-2", label)
    assert pick_run(ledger, None).run_id == "demo-2"


def test_a_run_that_still_seems_alive_on_a_closed_host_is_not_meant(ledger: Ledger) -> None:
    add_run(ledger, "demo-1", add_host(ledger, "old", InstanceState.CLOSED))
    add_run(ledger, "demo-2", add_host(ledger, "one"), RunState.ENDED)
    assert pick_run(ledger, None).run_id == "demo-2"


def test_several_runs_are_listed_the_newest_last(ledger: Ledger) -> None:
    label = add_host(ledger, "one")
    for number in range(12):
        add_run(ledger, f"demo-{number:02}", label)
    with pytest.raises(UsageError, match="several runs") as raised:
        pick_run(ledger, None)
    assert raised.value.why.endswith("demo-11 and 2 older")


def test_no_run_says_how_to_start_one(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="no run yet"):
        pick_run(ledger, None)
