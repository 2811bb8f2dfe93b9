"""`gptops run` on a market: outbid in the middle it goes on elsewhere, and the market's meter says what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.books.ledger import Ledger
from launcher.books.spending import spent_in_all
from launcher.errors import ExitCode
from launcher.managed.news import Event
from tests.doubles.machines import reason_to_skip
from tests.doubles.vast_cloud import VastCloud
from tests.launcher.workshop import HurryingClock, Workshop

pytestmark = pytest.mark.slow


@pytest.fixture
def clock() -> HurryingClock:
    return HurryingClock()


@pytest.fixture
def vast(tmp_path: Path, clock: HurryingClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[VastCloud]:
    """A market whose time is the errand's."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    with VastCloud(tmp_path / "vast", clock=clock) as double:
        monkeypatch.setenv("VAST_URL", double.url)
        monkeypatch.setenv("VAST_API_KEY", double.key)
        yield double


def workshop_at(tmp_path: Path, clock: HurryingClock, *more: str, every: int = 60) -> Workshop:
    made = Workshop(tmp_path / "desk", where="vast", resources="gpus: 1, spot: true", every=every, clock=clock)
    made.write_jobs("processes: 1", *more)
    return made


def test_an_outbid_machine_is_left_and_the_training_goes_on_from_home(
    tmp_path: Path, clock: HurryingClock, vast: VastCloud
) -> None:
    workshop = workshop_at(tmp_path, clock)
    workshop.allow(5)

    def outbid() -> None:
        vast.stop(vast.alive()[0])
        workshop.allow(None)

    workshop.when(lambda: 4 in workshop.at_home(), outbid)
    errand = workshop.run()
    assert errand.ending is not None
    assert errand.ending.exit_code == ExitCode.OK, errand.ending
    assert (errand.moves, len(errand.runs)) == (1, 2)
    assert workshop.curve(errand.runs[1]) == list(range(1, 9))
    assert [news.event for news in workshop.news] == [Event.PREEMPTION, Event.END]
    first, second = workshop.machines()
    assert first.spot
    assert second.spot
    assert vast.alive() == []
    paid = vast.dollars()
    clock.sleep(86400)
    assert vast.dollars() == paid
    with Ledger(workshop.state.ledger, clock) as ledger:
        booked = spent_in_all(ledger, clock.now()).total
    assert 0 < paid <= booked * 1.001, "the books never say less than the bill"


def test_a_budget_in_dollars_ends_it_with_everything_at_home(
    tmp_path: Path, clock: HurryingClock, vast: VastCloud
) -> None:
    workshop = workshop_at(tmp_path, clock, "budget: {max_usd: 1.5}", every=300)
    workshop.allow(5)
    errand = workshop.run()
    assert errand.ending is not None
    assert errand.ending.exit_code == ExitCode.BUDGET, errand.ending
    assert workshop.at_home() == [2, 4, 5]
    assert vast.alive() == []
    assert 1.0 < vast.dollars() < 1.8
