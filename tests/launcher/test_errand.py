"""An errand's state: on the disk before each step, found again by the same words, refused where it is of tomorrow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.books.ledger import ErrandState, Ledger
from launcher.errors import ExitCode, LocalFault
from launcher.managed.errand import Crash, Ending, Errand, Step, all_going, begin, going, read, save
from tests.conftest import FakeClock

ROOT = Path("/somewhere/project")


@pytest.fixture
def ledger(tmp_path: Path, fake_clock: FakeClock) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite3", fake_clock) as opened:
        yield opened


def test_the_same_words_in_the_same_project_find_it_again(ledger: Ledger) -> None:
    errand = begin(ledger, ROOT, ["demo", "second"])
    assert going(ledger, ROOT, ["demo", "second"]) == errand
    assert going(ledger, ROOT, ["demo"]) is None
    assert going(ledger, Path("/elsewhere"), ["demo", "second"]) is None


def test_everything_of_it_comes_back_from_the_disk(ledger: Ledger) -> None:
    errand = begin(ledger, ROOT, ["demo"]).with_run("demo-1").with_machines(["gptops:p:1"])
    errand = errand.now(step=Step.TRAIN, crash=Crash(exit_code=1, step=7), job_began=12.5, attempt=3)
    save(ledger, errand)
    assert read(ledger.errand(errand.errand_id)) == errand


@pytest.mark.parametrize(
    ("code", "state"),
    [(ExitCode.OK, ErrandState.ENDED), (75, ErrandState.ENDED), (ExitCode.BUDGET, ErrandState.FAILED)],
)
def test_an_errand_is_over_when_its_machine_is_gone_too(ledger: Ledger, code: int, state: ErrandState) -> None:
    errand = save(ledger, begin(ledger, ROOT, ["demo"]).over(Ending(exit_code=code, what="why")))
    assert not errand.is_over
    assert all_going(ledger) == [errand]
    save(ledger, errand.now(step=Step.WATCH))
    assert ledger.errand(errand.errand_id).state is state
    assert all_going(ledger) == []


def test_the_next_job_does_not_pay_for_the_one_before_it() -> None:
    first = Errand(
        errand_id="e", project_root="/p", jobs=("a", "b"), host_name="h", label="l", labels=("k", "l"), runs=("r",)
    )
    second = first.for_next_job(["l", "m"], 1.25)
    assert (second.job, second.runs, second.labels, second.spent_before) == ("b", (), ("l", "m"), 1.25)
    assert second.is_last


def test_a_state_of_a_newer_gptops_is_refused(ledger: Ledger) -> None:
    errand = begin(ledger, ROOT, ["demo"])
    content = {**json.loads(errand.model_dump_json()), "something_new": 1}
    ledger.mark_errand(errand.errand_id, content=json.dumps(content))
    with pytest.raises(LocalFault) as caught:
        read(ledger.errand(errand.errand_id))
    assert caught.value.hint == "pip install --upgrade gptops; what it has open: gptops ps"
