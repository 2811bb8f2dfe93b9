"""Curves in a terminal: each character holds two by four dots of Unicode's braille."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from trainer.plotting.curves import Curve

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of a dot, by row and column within a character."""
_BLANK = 0x2800
_LABEL = 10


def drawn(curves: Sequence[Curve], *, width: int = 72, height: int = 10) -> list[str]:
    """The curves in one frame, as lines of text: their scale at the left, their steps below. None may be empty."""
    values = [value for curve in curves for value in curve.values]
    steps = [step for curve in curves for step in curve.steps]
    low, high, first, last = min(values), max(values), min(steps), max(steps)
    columns = max(8, width - _LABEL - 1)
    cells = [[0] * columns for _ in range(height)]
    for curve in curves:
        places = [
            (_place(step, first, last, 2 * columns), _place(value, high, low, 4 * height))
            for step, value in zip(curve.steps, curve.values, strict=True)
        ]
        _join(cells, places)
    labels = {0: _number(high), height - 1: _number(low)}
    lines = [
        f"{labels.get(row, ''):>{_LABEL - 2}} ┤{''.join(chr(_BLANK + c) for c in cells[row])}" for row in range(height)
    ]
    ends = f"{first:,}".ljust(columns - len(f"{last:,}")) + f"{last:,}"
    return [*lines, f"{'':>{_LABEL}}{ends}"]


def _place(value: float, begin: float, end: float, dots: int) -> int:
    """Which of so many dots in a row stands for `value`."""
    share = (value - begin) / (end - begin) if end != begin else 0.5
    return min(dots - 1, max(0, math.floor(share * dots)))


def _join(cells: list[list[int]], places: Sequence[tuple[int, int]]) -> None:
    for x, y in places[:1]:
        _set(cells, x, y)
    for (x, y), (next_x, next_y) in pairwise(places):
        length = max(abs(next_x - x), abs(next_y - y), 1)
        for at in range(length + 1):
            _set(cells, x + round(at * (next_x - x) / length), y + round(at * (next_y - y) / length))


def _set(cells: list[list[int]], x: int, y: int) -> None:
    cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]


def _number(value: float) -> str:
    """At most seven characters."""
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:.4g}"
    return (
        f"{value / 1e6:.3g}M" if 1e6 <= value < 1e9 else f"{value / 1e3:.4g}k" if 1e4 <= value < 1e6 else f"{value:.1e}"
    )
