"""What is measured, and how it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.console import duration, size_text
from trainer.errors import EngineError
from trainer.loop.metrics import Meter, MetricsFile, StepRow


def row(mfu: float | None = 0.384) -> StepRow:
    return StepRow(
        step=500,
        loss=2.31409,
        lr=3e-4,
        grad_norm=0.8123,
        tokens=1,
        tokens_per_second=41200.4,
        mfu=mfu,
        memory_gib=3.08,
    )


def test_a_training_line_has_its_fixed_order() -> None:
    assert row().line(2000, 130) == (
        "step 500/2000  loss 2.3141  lr 3.0e-04  grad 0.81  tok/s 41,200  mfu 38%  mem 3.1 GiB  eta 2m10s"
    )


def test_mfu_is_left_out_where_the_peak_is_not_known() -> None:
    assert "mfu" not in row(None).line(2000, 130)
    assert row(None).as_dict()["mfu"] is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0s"), (45, "45s"), (59.7, "1m00s"), (130, "2m10s"), (3900, "1h05m"), (183600, "2d03h")],
)
def test_a_duration_is_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_have_the_unit_they_need() -> None:
    assert size_text(1.5 * 2**30) == "1.5 GiB"
    assert size_text(300_000) == "0.3 MiB"


def test_throughput_is_since_the_last_row_and_without_pauses() -> None:
    seconds = 0.0
    meter = Meter(now=lambda: seconds)
    seconds += 2
    meter.count(1000)
    with meter.paused():
        seconds += 100
    assert meter.tokens_per_second() == 500
    seconds += 1
    meter.count(300)
    assert meter.tokens_per_second() == 300


def test_the_rest_is_judged_by_all_steps_but_the_first() -> None:
    seconds = 0.0
    meter = Meter(now=lambda: seconds)
    seconds += 60
    meter.count(1)
    assert meter.seconds_for(3) == 180
    for _ in range(4):
        seconds += 2
        meter.count(1)
    assert meter.seconds_for(3) == 6


def test_rows_beyond_a_step_and_half_a_row_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    for step in (1, 2, 3):
        metrics.append({"step": step, "loss": 1.0 / step})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert metrics.drop_after(2) == 2
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    assert metrics.drop_after(2) == 0


def test_a_row_is_one_line_of_json_whatever_is_in_it(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append({"step": 1, "sample": "a\u2028b\x85c\nd", "grad_norm": float("inf")})
    assert metrics.drop_after(1) == 0
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 1, "sample": "a\u2028b\x85c\nd", "grad_norm": None}


def test_a_row_that_cannot_be_written_is_an_error_that_names_the_file() -> None:
    with pytest.raises(EngineError) as caught:
        MetricsFile(Path("/dev/full")).append({"step": 1})
    assert "`/dev/full`" in caught.value.what
    assert "No space left" in caught.value.why
