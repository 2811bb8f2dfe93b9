"""`gptops cost` and `gptops ps`: what a person and a program are told about money."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.books.ledger import InstanceState, Ledger, RunRow, RunState
from launcher.cli import main
from launcher.clock import SystemClock
from launcher.errors import ExitCode
from launcher.paths import state_paths
from tests.conftest import FakeClock

HOUR = 3600.0
SLACK = 0.5
"""Dollars, or hours: what the machine may cost while a test runs on a slow computer."""
JOBS = "jobs: {demo: {stage: pretrain, budget: {max_usd: 80, max_hours: 12}}}\n"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Ten hours ago: a machine at $4/h, with a run on it after two hours that ended four hours later."""
    clock = FakeClock(SystemClock().now() - 10 * HOUR)
    (tmp_path / "jobs.yaml").write_text(JOBS)
    with Ledger(state_paths().ledger, clock) as ledger:
        row = ledger.intend_instance(
            label="gptops:p:1", name="box", provider="vast", project="p", price_per_hour=4.0, gpus=8, gpu_name="H100",
            disk_per_hour=1.0, download_usd_per_gb=0.05,
        )  # fmt: skip
        ledger.mark_instance(row.label, InstanceState.OPEN, instance_id="7")
        clock.advance(2 * HOUR)
        home = str(tmp_path / "runs")
        ledger.add_run(
            RunRow(
                "demo-1", "demo", "box", row.label, str(tmp_path), home, clock.now(), RunState.RUNNING, None, True, 2
            )
        )
        clock.advance(4 * HOUR)
        ledger.record_transfer(row.label, "down", 20_000_000_000)
        ledger.mark_run("demo-1", RunState.ENDED, exit_code=0)
        clock.advance(HOUR)
        yield ledger


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    assert main(["cost", *words]) == 0
    shown = capsys.readouterr()
    return shown.out, shown.err


def test_each_machine_has_a_line_and_what_is_open_is_said(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = told(capsys)
    heading, line, sums = out.splitlines()
    assert " ".join(heading.split()) == "HOST PROVIDER STATE HOURS GPU $ DISK $ BANDWIDTH $ TOTAL $"
    assert line.split()[:3] == ["box", "vast", "open"]
    assert [float(cell) for cell in line.split()[3:]] == pytest.approx([10.0, 30.0, 10.0, 1.0, 41.0], abs=SLACK)
    assert sums.split() == ["total", "-", "-", "-", *line.split()[4:]]
    assert "open now: `box`: $4.00/h, $96.00 a day" in err


def test_a_run_is_held_against_its_cap_and_the_rest_of_the_machine_is_a_line_too(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = told(capsys, "--by", "run")
    lines = [line.split() for line in out.splitlines()[1:]]
    assert lines[0] == ["demo-1", "box", "ended", "4.0", "12.00", "4.00", "1.00", "17.00", "80.00", "21%"]
    assert lines[1][:4] == ["(none)", "box", "no", "run"]
    assert float(lines[1][-3]) == pytest.approx(24.0, abs=SLACK)


def test_a_run_that_goes_on_is_told_when_it_reaches_its_cap(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    """After eight of its twelve hours; its $80 would last longer."""
    ledger.mark_run("demo-1", RunState.RUNNING)
    _, err = told(capsys, "--by", "run")
    assert "`demo-1` reaches its cap in" in err
    answer = json.loads(told(capsys, "--by", "run", "--json")[0])
    assert answer["lines"][0]["hours_left"] == pytest.approx(4.0, abs=SLACK)


@pytest.mark.parametrize("by", ["run", "host", "day", "month"])
def test_programs_get_every_sum_and_it_is_the_same(ledger: Ledger, capsys: pytest.CaptureFixture[str], by: str) -> None:
    answer = json.loads(told(capsys, "--by", by, "--json")[0])
    assert answer["total"]["total_usd"] == pytest.approx(41.0, abs=SLACK)
    assert sum(line["total_usd"] for line in answer["lines"]) == pytest.approx(answer["total"]["total_usd"], abs=0.001)
    assert (answer["open_per_hour"], answer["open_per_day"]) == (4.0, 96.0)
    if by == "run":
        assert (answer["lines"][0]["cap_usd"], answer["lines"][0]["cap_hours"]) == (80.0, 12.0)


def test_a_project_that_is_gone_has_no_caps(ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.yaml").unlink()
    assert json.loads(told(capsys, "--by", "run", "--json")[0])["lines"][0]["cap_usd"] is None


def test_before_the_first_machine_nothing_was_spent(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = told(capsys)
    assert out == ""
    assert "nothing was spent" in err
    assert json.loads(told(capsys, "--json")[0])["total"]["total_usd"] == 0.0


def test_a_damaged_ledger_is_an_error_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    path = state_paths().ledger
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"garbage" * 1000)
    assert main(["cost", "--json"]) == ExitCode.LOCAL_FAULT
    assert "is damaged" in json.loads(capsys.readouterr().out)["error"]["what"]
    assert main(["gc", "--json"]) == ExitCode.LOCAL_FAULT


def test_an_unknown_way_to_group_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--by", "week"]) == ExitCode.USAGE
    assert "--by" in capsys.readouterr().err


def test_ps_shows_what_a_machine_has_cost_and_when_it_ends_itself(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    now = SystemClock().now()
    ledger.set_deadline("gptops:p:1", now + 5.5 * HOUR)
    assert main(["ps"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert "in 5 h" in line
    assert main(["ps", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["cost_usd"] == pytest.approx(41.0, abs=SLACK)
    assert row["ends_itself_at"] == pytest.approx(now + 5.5 * HOUR)
    ledger.set_deadline("gptops:p:1", now - 60)
    assert main(["ps"]) == 0
    assert "overdue" in capsys.readouterr().out
