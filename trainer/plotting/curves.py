"""The curves of a run, read from its metrics.jsonl. No torch, and no matter whether the run still goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import DataError
from trainer.quoting import shown

FILE_NAME = "metrics.jsonl"


@dataclass(frozen=True)
class Curve:
    """One quantity over the steps of one run."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.steps)


@dataclass(frozen=True)
class RunCurves:
    """What one run has measured."""

    name: str
    """As short as tells it apart."""
    curves: dict[str, Curve] = field(default_factory=dict)
    """By the name of the quantity, as metrics.jsonl has it."""

    def curve(self, quantity: str) -> Curve:
        """Empty where the run has none of it."""
        return self.curves.get(quantity, Curve((), ()))


def read_runs(paths: Sequence[Path]) -> list[RunCurves]:
    """The runs in these folders (or metrics files). Raises DataError where one has measured nothing."""
    return [RunCurves(name, _curves(path)) for name, path in zip(_names(paths), paths, strict=True)]


def _curves(path: Path) -> dict[str, Curve]:
    file = path / FILE_NAME if path.is_dir() else path
    points: dict[str, dict[int, float]] = {}
    for row in _rows(file):
        for quantity, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                points.setdefault(quantity, {})[row["step"]] = float(value)
    points.pop("step", None)
    if not points:
        raise DataError(f"{shown(file)} holds nothing to draw", why="no row of it has a step and a number")
    return {name: Curve(tuple(sorted(at)), tuple(at[step] for step in sorted(at))) for name, at in points.items()}


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(
            f"cannot read {shown(file)}",
            why=error.strerror or str(error),
            hint="name the folder of a run: the one with metrics.jsonl in it",
        ) from error
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # the last one may be half written: the run goes on
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row


def _names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many parts as tell them apart."""
    parts = [(path if path.name != FILE_NAME else path.parent).resolve().parts for path in paths]
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(path) for path in paths]
