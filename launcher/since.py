"""`--since`: from where on a log is wanted, as a time or as a byte."""

from __future__ import annotations

import re
from dataclasses import dataclass

from launcher.errors import UsageError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Since:
    """Either `seconds` before now, or the byte `offset`; neither means the beginning."""

    seconds: int | None = None
    offset: int = 0


def parse_since(text: str | None) -> Since:
    """`10m`, `2h`, `4096`; None is the beginning. Raises UsageError."""
    if text is None:
        return Since()
    match = re.fullmatch(r"(\d{1,15})([smhd]?)", text.strip(), re.ASCII)
    if match is None:
        raise UsageError(
            f"`{text}` is neither a time nor a byte",
            why="a time is 90s, 10m, 2h or 1d; a byte is a whole number, counted from 0",
            hint="gptops logs --since 10m",
        )
    number, unit = int(match[1]), match[2]
    return Since(seconds=number * _SECONDS[unit]) if unit else Since(offset=number)
