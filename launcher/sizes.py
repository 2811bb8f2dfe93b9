"""Bytes as people read them: `812 B`, `2.3 MiB`, `118 MiB`, `1.4 GiB`."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size_text(count: float) -> str:
    """`count` bytes in the largest unit that keeps three digits at most, with at least two where there are more."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.{1 if count < 9.95 and unit else 0}f} {_UNITS[unit]}"
