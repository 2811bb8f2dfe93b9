"""A loss curve as text, for a terminal: braille dots on labelled axes.

Pure: points in, lines out. It knows nothing of files, steps or colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

Point = tuple[float, float]

# Bit of each dot in a braille cell, by row (0 at the top) and column; Unicode 2800.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def curve(points: Sequence[Point], *, width: int = 72, height: int = 12, title: str = "") -> list[str]:
    """The points as lines of text, `width` columns wide, `height` rows of plot high.

    Points need finite coordinates and at least two different x; otherwise nothing can be drawn and the list is empty.
    """
    drawn = sorted(point for point in points if all(map(math.isfinite, point)))
    if len({x for x, _ in drawn}) < 2:
        return []
    (x_low, x_high), (y_low, y_high) = _span(x for x, _ in drawn), _span(y for _, y in drawn)
    labels = [f"{y_high - (y_high - y_low) * row / (height - 1):.2f}" for row in range(height)]
    margin = max(len(label) for label in labels)
    columns = width - margin - 2
    cells = [[0] * columns for _ in range(height)]
    for x, y in _joined(drawn, columns * 2):
        column = round((x - x_low) / (x_high - x_low) * (columns * 2 - 1))
        row = round((y_high - y) / (y_high - y_low) * (height * 4 - 1))
        cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    lines = [title.center(width).rstrip()] if title else []
    for row, label in enumerate(labels):
        shown = label if row % 3 == 0 or row == height - 1 else ""
        plot = "".join(chr(0x2800 + cell) if cell else " " for cell in cells[row])
        lines.append(f"{shown:>{margin}} ┤{plot}".rstrip())
    lines.append(f"{'':>{margin}} └{'─' * columns}")
    left, right = f"{x_low:g}", f"{x_high:g}"
    lines.append(f"{'':>{margin}}  {left}{right:>{columns - len(left)}}")
    return lines


def _span(values: Iterable[float]) -> tuple[float, float]:
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _joined(points: list[Point], dots: int) -> list[Point]:
    """The points, and as many between each two as keep the line unbroken at this many dots across."""
    joined = [points[0]]
    x_span = points[-1][0] - points[0][0]
    y_span = max(y for _, y in points) - min(y for _, y in points) or 1.0
    for (x0, y0), (x1, y1) in pairwise(points):
        steps = max(1, math.ceil(dots * max((x1 - x0) / x_span, abs(y1 - y0) / y_span)))
        joined += [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(1, steps + 1)]
    return joined
