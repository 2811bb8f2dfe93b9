"""The learning rate at a step: a pure function, so there is nothing to save and nothing to get wrong on resume.

A doorway module: no torch here.
"""

from __future__ import annotations

import math

from trainer.config.run import RunConfig
from trainer.config.training import ScheduleConfig


def lr_at(step: int, *, peak_lr: float, max_steps: int, schedule: ScheduleConfig) -> float:
    """Learning rate of optimizer step `step`, counted from 0.

    Warmup rises linearly, `(step + 1) / (warmup_steps + 1)` of the peak, so no step is wasted at zero. The cosine
    falls from the peak at `warmup_steps` to `min_lr_ratio` of it at `max_steps` and stays there (nanoGPT's formula).
    """
    assert step >= 0
    if step < schedule.warmup_steps:
        return peak_lr * (step + 1) / (schedule.warmup_steps + 1)
    if schedule.kind == "constant":
        return peak_lr
    floor = peak_lr * schedule.min_lr_ratio
    if step >= max_steps:
        return floor
    progress = (step - schedule.warmup_steps) / (max_steps - schedule.warmup_steps)
    return floor + (peak_lr - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def lr_of(step: int, config: RunConfig) -> float:
    """`lr_at` for a whole configuration."""
    return lr_at(step, peak_lr=config.optim.lr, max_steps=config.train.max_steps, schedule=config.schedule)
