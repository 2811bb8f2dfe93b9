"""The learning rate is nanoGPT's, number by number."""

from __future__ import annotations

import pytest

from trainer.config import RunConfig, ScheduleConfig
from trainer.schedule import lr_at, lr_of

COSINE = ScheduleConfig(kind="cosine", warmup_steps=2000, min_lr_ratio=0.1)


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 2.9985007496e-07),
        (1999, 5.9970014993e-04),
        (2000, 6e-4),
        (301_000, 3.3e-4),
        (600_000, 6e-5),
        (10**9, 6e-5),
    ],
)
def test_warmup_and_cosine_have_the_published_values(step: int, lr: float) -> None:
    assert lr_at(step, peak_lr=6e-4, max_steps=600_000, schedule=COSINE) == pytest.approx(lr, rel=1e-9)


def test_no_step_is_wasted_at_zero() -> None:
    assert lr_at(0, peak_lr=1.0, max_steps=10, schedule=ScheduleConfig(warmup_steps=4)) == 0.2


def test_constant_stays_at_the_peak() -> None:
    schedule = ScheduleConfig(kind="constant", warmup_steps=2)
    values = [lr_at(step, peak_lr=3.0, max_steps=5, schedule=schedule) for step in range(7)]
    assert values == [1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0]


def test_without_warmup_the_first_step_is_at_the_peak() -> None:
    assert lr_at(0, peak_lr=2.0, max_steps=5, schedule=ScheduleConfig(warmup_steps=0)) == 2.0


def test_it_never_rises_after_the_warmup() -> None:
    schedule = ScheduleConfig(warmup_steps=3, min_lr_ratio=0.0)
    values = [lr_at(step, peak_lr=1.0, max_steps=20, schedule=schedule) for step in range(3, 25)]
    assert values == sorted(values, reverse=True)
    assert values[-1] == 0.0


def test_a_whole_configuration_says_it_all() -> None:
    config = RunConfig.model_validate(
        {"optim": {"lr": 1e-3}, "schedule": {"warmup_steps": 9}, "train": {"max_steps": 50}}
    )
    assert lr_of(0, config) == pytest.approx(1e-4)
    assert lr_of(50, config) == pytest.approx(1e-4)


def test_wsd_stays_and_then_falls_as_transformers_does_after_its_warmup() -> None:
    schedule = ScheduleConfig(kind="wsd", warmup_steps=10, decay_fraction=0.2, min_lr_ratio=0.1)
    values = {
        step: lr_at(step, peak_lr=1.0, max_steps=100, schedule=schedule) for step in (9, 10, 79, 80, 90, 100, 200)
    }
    assert values[9] == pytest.approx(10 / 11)
    assert values[10] == values[79] == values[80] == 1.0
    assert values[90] == pytest.approx(0.55)
    assert values[100] == values[200] == pytest.approx(0.1)


def test_linear_falls_in_equal_steps_to_its_end() -> None:
    schedule = ScheduleConfig(kind="linear", warmup_steps=1, min_lr_ratio=0.0)
    values = [lr_at(step, peak_lr=4.0, max_steps=5, schedule=schedule) for step in range(7)]
    assert values == [2.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["cosine", "wsd", "linear", "constant"])
def test_every_kind_is_within_its_bounds_and_never_rises_after_the_warmup(kind: str) -> None:
    schedule = ScheduleConfig.model_validate({"kind": kind, "warmup_steps": 7, "min_lr_ratio": 0.2})
    values = [lr_at(step, peak_lr=1.0, max_steps=40, schedule=schedule) for step in range(7, 60)]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0
    assert values[-1] == pytest.approx(1.0 if kind == "constant" else 0.2)


def test_a_decay_longer_than_what_the_warmup_leaves_begins_after_it() -> None:
    schedule = ScheduleConfig(kind="wsd", warmup_steps=6, decay_fraction=1.0, min_lr_ratio=0.0)
    assert lr_at(6, peak_lr=1.0, max_steps=8, schedule=schedule) == 1.0
    assert lr_at(7, peak_lr=1.0, max_steps=8, schedule=schedule) == 0.5
