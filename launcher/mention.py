"""Whether a text mentions a name: whole words, in any case, however they are joined.

`RTX_4090` is in `NVIDIA GeForce RTX 4090`, `A10` is not in `NVIDIA A100`; `US` is in
`Oregon, US` and not in `Australia`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable


def mentions(text: str, name: str) -> bool:
    """All words of `name` stand in `text`, one after the other."""
    words, wanted = _words(text), "".join(_words(name))
    return any(
        "".join(words[start:end]) == wanted for start in range(len(words)) for end in range(start + 1, len(words) + 1)
    )


def mentions_any(text: str, names: Iterable[str]) -> bool:
    """One of the names at least; true where none is given."""
    names = tuple(names)
    return not names or any(mentions(text, name) for name in names)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
