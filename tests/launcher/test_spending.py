"""What machines, runs, days and months cost: from prices, times and bytes."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceRow, InstanceState, Ledger, RunRow, RunState
from launcher.books.spending import Spent, life, lives, spent, spent_by_run, spent_in_all
from launcher.books.statement import By, statement, total
from tests.conftest import FakeClock

HOUR = 3600.0


@pytest.fixture
def ledger(tmp_path: Path, fake_clock: FakeClock) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite3", fake_clock) as ledger:
        yield ledger


def rent(ledger: Ledger, name: str = "box", price: float = 2.0, disk: float = 0.5) -> InstanceRow:
    row = ledger.intend_instance(
        label=f"gptops:p:{name}", name=name, provider="vast", project="p", price_per_hour=price, gpus=8, gpu_name="H",
        disk_per_hour=disk, upload_usd_per_gb=0.01, download_usd_per_gb=0.02,
    )  # fmt: skip
    return ledger.mark_instance(row.label, InstanceState.OPEN, instance_id=f"i-{name}")


def start(ledger: Ledger, row: InstanceRow, run_id: str) -> None:
    now = ledger._clock.now()
    ledger.add_run(
        RunRow(run_id, "demo", row.name, row.label, "/p", f"/p/{run_id}", now, RunState.RUNNING, None, True, 2)
    )


def about(gpu: float = 0.0, disk: float = 0.0, bandwidth: float = 0.0) -> Spent:
    return Spent(pytest.approx(gpu), pytest.approx(disk), pytest.approx(bandwidth))


def test_gpus_disk_and_bandwidth_are_told_apart(ledger: Ledger, fake_clock: FakeClock) -> None:
    row = rent(ledger)
    fake_clock.advance(10 * HOUR)
    ledger.record_transfer(row.label, "up", 500_000_000)
    ledger.record_transfer(row.label, "down", 50_000_000_000)
    assert spent(ledger, row.label, fake_clock.now()) == about(15.0, 5.0, 1.005)
    assert spent(ledger, row.label, fake_clock.now()).total == pytest.approx(21.005)


def test_a_changed_price_counts_from_its_moment_on_and_a_stopped_machine_bills_its_disk(
    ledger: Ledger, fake_clock: FakeClock
) -> None:
    row = rent(ledger)
    fake_clock.advance(HOUR)
    ledger.record_price(row.label, 3.5, 0.5)
    fake_clock.advance(HOUR)
    ledger.record_price(row.label, 0.0, 0.5)
    assert life(ledger, row.label, fake_clock.now()).per_hour == 0.5
    fake_clock.advance(2 * HOUR)
    assert spent(ledger, row.label, fake_clock.now()) == about(5.0, 2.0)


def test_a_closed_machine_costs_no_more_and_one_that_never_was_nothing(ledger: Ledger, fake_clock: FakeClock) -> None:
    row = rent(ledger)
    fake_clock.advance(HOUR)
    ledger.mark_instance(row.label, InstanceState.CLOSED)
    never = ledger.intend_instance(
        label="gptops:p:never", name="never", provider="vast", project="p", price_per_hour=9, gpus=1, gpu_name="H"
    )
    fake_clock.advance(HOUR)
    ledger.mark_instance(never.label, InstanceState.CLOSED)
    fake_clock.advance(100 * HOUR)
    assert spent(ledger, row.label, fake_clock.now()).total == pytest.approx(2.0)
    assert spent(ledger, never.label, fake_clock.now()).total == 0.0
    assert spent_in_all(ledger, fake_clock.now()).total == pytest.approx(2.0)


def test_a_machine_of_an_older_ledger_costs_the_price_that_it_has(ledger: Ledger, fake_clock: FakeClock) -> None:
    row = rent(ledger)
    ledger._db.execute("DELETE FROM prices")
    fake_clock.advance(HOUR)
    assert spent(ledger, row.label, fake_clock.now()) == about(1.5, 0.5)


def test_a_clock_that_was_put_back_costs_nothing_negative(ledger: Ledger, fake_clock: FakeClock) -> None:
    row = rent(ledger)
    fake_clock.advance(HOUR)
    ledger.record_price(row.label, 4.0, 0.5)
    ledger.record_transfer(row.label, "down", 1_000_000_000)
    fake_clock.advance(-50 * HOUR)
    assert spent(ledger, row.label, fake_clock.now()) == about(bandwidth=0.02)
    ledger.mark_instance(row.label, InstanceState.CLOSED)
    assert spent(ledger, row.label, fake_clock.now()) == about(bandwidth=0.02)
    for by in By:
        assert total(statement(ledger, lives(ledger, fake_clock.now()), fake_clock.now(), by)) == about(bandwidth=0.02)


def test_runs_share_their_machine_and_what_is_left_is_nobodys(ledger: Ledger, fake_clock: FakeClock) -> None:
    row = rent(ledger, price=2.0, disk=0.0)
    fake_clock.advance(HOUR)  # set up
    start(ledger, row, "one")
    fake_clock.advance(HOUR)
    start(ledger, row, "two")
    fake_clock.advance(HOUR)  # both
    ledger.mark_run("one", RunState.ENDED)
    fake_clock.advance(HOUR)
    ledger.mark_run("two", RunState.ENDED)
    fake_clock.advance(HOUR)
    ledger.record_transfer(row.label, "down", 1_000_000_000)
    shares = spent_by_run(ledger, row.label, fake_clock.now())
    assert shares == {"one": about(3.0), "two": about(3.0, 0.0, 0.02), None: about(4.0)}
    assert sum((each for each in shares.values()), Spent()) == about(10.0, 0.0, 0.02)


def test_every_statement_has_the_same_sum(ledger: Ledger, fake_clock: FakeClock) -> None:
    fake_clock.seconds = datetime.datetime(2026, 11, 29, 22, 0, tzinfo=datetime.timezone.utc).timestamp()
    row = rent(ledger)
    start(ledger, row, "one")
    fake_clock.advance(5 * HOUR)
    other = rent(ledger, "other")
    ledger.record_transfer(other.label, "down", 3_000_000_000)
    fake_clock.advance(40 * HOUR)
    ledger.mark_instance(row.label, InstanceState.CLOSED)
    fake_clock.advance(3 * HOUR)
    now = fake_clock.now()
    every = lives(ledger, now)
    whole = spent_in_all(ledger, now)
    for by in By:
        assert total(statement(ledger, every, now, by)).total == pytest.approx(whole.total), by
    assert [(line.name, line.hours) for line in statement(ledger, every, now, By.DAY)] == [
        ("2026-11-29", pytest.approx(2.0)),
        ("2026-11-30", pytest.approx(24.0 + 21.0)),
        ("2026-12-01", pytest.approx(19.0 + 22.0)),
    ]
    months = statement(ledger, every, now, By.MONTH)
    assert [line.name for line in months] == ["2026-11", "2026-12"]
    assert months[0].spent == about((26 + 21) * 1.5, (26 + 21) * 0.5, 0.06)
