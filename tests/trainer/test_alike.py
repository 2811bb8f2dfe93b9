"""Rows of a step that are about as long go together, and every row of it goes somewhere."""

from __future__ import annotations

import itertools

import numpy as np

from trainer.data.order import order
from trainer.stages.alike import alike

LENGTHS = np.random.default_rng(0).integers(1, 200, 64)


def test_every_row_of_a_step_is_in_one_micro_batch() -> None:
    taken = [alike(7, 32 + place, 4, 16, LENGTHS) for place in range(0, 16, 4)]
    samples = [sample for found, _ in taken for sample in found]
    assert sorted(samples) == list(range(32, 48))
    rows = {sample: row for found, places in taken for sample, row in zip(found, places, strict=True)}
    assert [rows[sample] for sample in range(32, 48)] == order(7, range(32, 48), 64).tolist()


def test_a_micro_batch_holds_rows_of_about_one_length() -> None:
    taken = [LENGTHS[list(alike(7, place, 4, 16, LENGTHS)[1])].tolist() for place in range(0, 16, 4)]
    assert [min(lengths) >= max(after) for lengths, after in itertools.pairwise(taken)] == [True] * 3
    padded = sum(4 * max(lengths) for lengths in taken)
    as_drawn = LENGTHS[order(7, range(16), 64)].tolist()
    assert padded < sum(4 * max(as_drawn[place : place + 4]) for place in range(0, 16, 4))
