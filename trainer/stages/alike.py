"""Which rows of a step go together: those of about one length, so that little of a micro-batch is padding.

A step's rows are drawn in an order that is a pure function of the seed; how they fall into micro-batches and onto ranks
changes neither their sum nor which step they belong to.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.data.order import order


def alike(
    seed: int, at: int, micro: int, step: int, lengths: NDArray[np.int64]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The samples from place `at` of the stream on that make a micro-batch, and the rows they are.

    A step is `step` samples, longest row first; `at` counts through all steps, and `micro` divides `step`.
    """
    first = at // step * step
    samples = np.arange(first, first + step)
    rows = order(seed, samples, len(lengths))
    longest_first = np.argsort(-lengths[rows], kind="stable")[at - first : at - first + micro]
    return tuple(samples[longest_first].tolist()), tuple(rows[longest_first].tolist())
