"""gc: what bills and should not is ended, what is gone is closed, and nobody else's machine is touched."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceState
from launcher.cli import main
from launcher.errors import ExitCode, StillOpen
from launcher.lock import hold
from launcher.providers.api_keys import NoKey
from tests.doubles.cloud import Reply
from tests.launcher.command_line import gptops
from tests.launcher.till import Till, till  # noqa: F401 (a fixture)

# ruff: noqa: F811 (the fixture's name is a test's argument)


def test_where_everything_is_right_nothing_is_done(till: Till) -> None:
    till.rent("one")
    survey, done = till.gc()
    assert [row.name for row in survey.kept] == ["one"]
    assert (done.ended, done.closed, done.failed, survey.unknown) == ([], [], [], [])
    assert len(till.vast.alive()) == 1


def test_what_a_killed_gptops_left_is_ended_whether_it_came_to_be_or_not(till: Till) -> None:
    """Killed before create, after it, and while ending."""
    till.intend("never")
    created = till.intend("created")
    till.create(created.label)
    ending = till.rent("ending")
    till.ledger.mark_instance(ending.label, InstanceState.CLOSING)
    _, done = till.gc()
    assert {found.name for found in done.ended} == {"never", "created", "ending"}
    assert till.vast.alive() == []
    assert set(till.states().values()) == {InstanceState.CLOSED}
    assert till.vast.meter.per_hour == 0


def test_a_machine_that_the_ledger_has_closed_is_a_leak_and_its_cost_goes_on_until_now(till: Till) -> None:
    row = till.rent()
    till.ledger.mark_instance(row.label, InstanceState.CLOSED)
    till.clock.advance(7200)
    survey, done = till.gc()
    assert [found.why for found in survey.leaked] == ["the ledger has it closed"]
    assert [found.name for found in done.ended] == ["box"]
    assert till.vast.alive() == []
    closed_at = till.ledger.instance(row.label).closed_at
    assert closed_at is not None
    assert closed_at >= row.created_at + 7200


def test_an_entry_without_a_machine_is_closed(till: Till) -> None:
    row = till.rent()
    till.provider.destroy(str(row.instance_id))
    _, done = till.gc()
    assert [found.name for found in done.closed] == ["box"]
    assert till.states() == {"box": InstanceState.CLOSED}


def test_a_list_that_leaves_a_machine_out_ends_nothing(till: Till) -> None:
    """Only a look at the machine itself is a proof that it is gone: its label was changed by hand."""
    row = till.rent()
    till.vast.box(str(row.instance_id)).label = "renamed on the web page"
    survey, done = till.gc()
    assert [kept.name for kept in survey.kept] == ["box"]
    assert (done.ended, done.closed) == ([], [])
    assert len(till.vast.alive()) == 1


def test_a_machine_that_no_entry_explains_is_shown_and_left_alone_until_it_is_asked_for(till: Till) -> None:
    till.create("gptops:theirs:1")
    till.create("gptops:theirs:12")
    till.create("somebody-else")
    survey, done = till.gc()
    assert sorted(found.label for found in survey.unknown) == ["gptops:theirs:1", "gptops:theirs:12"]
    assert done.ended == []
    assert len(till.vast.alive()) == 3
    survey, done = till.gc(unknown_too=True)
    assert len(done.ended) == 2
    assert len(till.vast.alive()) == 1, "what bears no label of ours is nobody's business"


def test_one_that_will_not_end_does_not_stop_the_others(till: Till) -> None:
    till.vast.script("destroy_lingers", looks=10_000)
    for name in ("one", "two"):
        till.ledger.mark_instance(till.rent(name).label, InstanceState.CLOSING)
    _, done = till.gc()
    assert [(found.name, type(error)) for found, error in done.failed] == [("one", StillOpen)]
    assert [found.name for found in done.ended] == ["two"]
    assert till.states() == {"one": InstanceState.CLOSING, "two": InstanceState.CLOSED}


def test_what_another_gptops_works_on_is_left_to_it(till: Till) -> None:
    row = till.intend()
    till.create(row.label)
    with hold(till.state.host_lock("box"), "gptops up --name box", till.clock):
        survey, done = till.gc()
    assert [row.name for row in survey.busy] == ["box"]
    assert (done.ended, len(till.vast.alive())) == ([], 1)


def test_a_provider_without_a_key_does_not_stop_the_others_and_is_an_error_only_where_something_is_open(
    till: Till,
) -> None:
    till.ledger.mark_instance(till.rent().label, InstanceState.CLOSING)
    survey, done = till.gc()
    assert (survey.unasked, len(done.ended)) == ([], 1)
    assert "`runpod` was not asked: there is no API key for `runpod`" in till.said
    till.ledger.intend_instance(
        label="gptops:p:pod", name="pod", provider="runpod", project="p", price_per_hour=2, gpus=1, gpu_name="A"
    )
    survey, _ = till.gc()
    assert [(name, type(error)) for name, error in survey.unasked] == [("runpod", NoKey)]


def test_a_stopped_machine_is_noted_to_cost_its_disk(till: Till) -> None:
    row = till.rent()
    till.clock.advance(600)
    till.provider.get(str(row.instance_id))
    till.vast.stop(str(row.instance_id))
    till.gc()
    assert till.ledger.prices(row.label)[-1].gpu_per_hour == 0.0


# On the command line


def as_a_person(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTOPS_HOME", str(till.state.root))
    for name in ("RUNPOD_API_KEY", "LAMBDA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_without_consent_nothing_is_ended_and_the_exit_code_says_that_it_bills(
    till: Till, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_a_person(till, monkeypatch)
    row = till.rent()
    till.ledger.mark_instance(row.label, InstanceState.CLOSING)
    assert main(["gc", "--provider", "vast"]) == ExitCode.PROVIDER
    told = capsys.readouterr()
    assert "interrupted" in told.out
    assert str(row.instance_id) in told.out
    assert "`gptops gc --yes` ends them" in told.err
    assert len(till.vast.alive()) == 1
    assert main(["gc", "--provider", "vast", "--yes"]) == 0
    assert "ended `box` at `vast`, and it is gone" in capsys.readouterr().err
    assert till.vast.alive() == []


def test_it_tells_programs_what_was_ended_and_what_is_left(
    till: Till, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_a_person(till, monkeypatch)
    till.ledger.mark_instance(till.rent("mine").label, InstanceState.CLOSING)
    till.create("gptops:theirs:1")
    assert main(["gc", "--provider", "vast", "--yes", "--json"]) == ExitCode.PROVIDER, "theirs bills on"
    answer = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in answer["ended"]] == ["mine"]
    assert [each["label"] for each in answer["left"]["unknown"]] == ["gptops:theirs:1"]
    assert main(["gc", "--provider", "vast", "--yes", "--json", "--all-mine"]) == 0
    assert json.loads(capsys.readouterr().out)["left"]["unknown"] == []
    assert till.vast.alive() == []


def test_a_provider_that_is_down_is_an_error_of_its_own(
    till: Till, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_a_person(till, monkeypatch)
    till.intend()
    monkeypatch.setenv("VAST_API_KEY", "wrong")
    assert main(["gc", "--provider", "vast", "--yes"]) == ExitCode.KEY
    assert main(["gc", "--provider", "cloudy"]) == ExitCode.USAGE
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("point", ["gc:listed", "down:destroyed", "gc:mended"])
def test_gc_killed_anywhere_is_finished_by_the_next_one(till: Till, tmp_path: Path, point: str) -> None:
    for name in ("one", "two"):
        till.ledger.mark_instance(till.rent(name).label, InstanceState.CLOSING)
    words = ("gc", "--provider", "vast", "--yes")
    killed = gptops(*words, home=till.state.root, crash_at=point, cwd=tmp_path)
    assert killed.exit_code == -signal.SIGKILL, killed.stderr
    again = gptops(*words, home=till.state.root, cwd=tmp_path)
    assert again.exit_code == 0, again.stderr
    assert till.vast.alive() == []
    assert till.vast.meter.per_hour == 0
    assert set(till.states().values()) == {InstanceState.CLOSED}


@pytest.mark.parametrize("point", ["down:closing", "down:forgotten"])
def test_down_of_a_rented_machine_killed_anywhere_is_finished_by_gc(till: Till, tmp_path: Path, point: str) -> None:
    till.rent()
    killed = gptops("down", "--discard", home=till.state.root, crash_at=point, cwd=tmp_path)
    assert killed.exit_code == -signal.SIGKILL, killed.stderr
    again = gptops("gc", "--provider", "vast", "--yes", home=till.state.root, cwd=tmp_path)
    assert again.exit_code == 0, again.stderr
    assert till.vast.alive() == []
    assert set(till.states().values()) == {InstanceState.CLOSED}


def test_down_that_cannot_prove_the_end_is_no_success(till: Till, tmp_path: Path) -> None:
    till.rent()
    till.vast.fail(
        "GET", r"/instances", Reply(401, {"success": False, "error": "auth_error", "msg": "bad key"}), times=9
    )
    failed = gptops("down", "--discard", "--json", home=till.state.root, cwd=tmp_path)
    assert failed.exit_code == ExitCode.KEY
    assert "may still exist and bill" in json.loads(failed.stdout)["error"]["what"]
    assert till.states() == {"box": InstanceState.OPEN}
