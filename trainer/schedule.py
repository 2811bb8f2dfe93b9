"""The learning rate at a step: a pure function, so there is nothing to save and nothing to get wrong on resume.

A doorway module: no torch here.
"""

from __future__ import annotations

import math

from trainer.config.run import RunConfig
from trainer.config.training import ScheduleConfig


def lr_at(step: int, *, peak_lr: float, max_steps: int, schedule: ScheduleConfig) -> float:
    """Learning rate of optimizer step `step`, counted from 0.

    Warmup rises linearly, `(step + 1) / (warmup_steps + 1)` of the peak, so no step is wasted at zero. What falls,
    falls from the peak to `min_lr_ratio` of it at `max_steps` and stays there; the cosine is nanoGPT's formula.
    """
    assert step >= 0
    if step < schedule.warmup_steps:
        return peak_lr * (step + 1) / (schedule.warmup_steps + 1)
    begin = decay_begins(max_steps, schedule)
    if schedule.kind == "constant" or step < begin:
        return peak_lr
    left = 1.0 - min(1.0, (step - begin) / max(1, max_steps - begin))
    floor = peak_lr * schedule.min_lr_ratio
    shape = 0.5 * (1.0 - math.cos(math.pi * left)) if schedule.kind == "cosine" else left
    return floor + (peak_lr - floor) * shape


def decay_begins(max_steps: int, schedule: ScheduleConfig) -> int:
    """The first step at which the rate may be below the peak again; `max_steps` where it never is."""
    if schedule.kind == "constant":
        return max_steps
    if schedule.kind == "wsd":
        return max(schedule.warmup_steps, max_steps - math.ceil(max_steps * schedule.decay_fraction))
    return schedule.warmup_steps


def lr_of(step: int, config: RunConfig) -> float:
    """`lr_at` for a whole configuration: the rate of parameters whose peak is `optim.lr`."""
    return lr_at(step, peak_lr=config.optim.lr, max_steps=config.train.max_steps, schedule=config.schedule)
