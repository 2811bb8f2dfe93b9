"""Ids become text as they come: whole characters only, and never the beginning of a stop string.

A byte-level tokenizer may cut a character in two; what is not yet a character waits for the rest of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_UNFINISHED = "\ufffd"
_LONGEST_CHARACTER_IDS = 8
"""A character has at most four bytes; ids that still are no text after twice as many never will be."""


class TextStream:
    """The text of one sequence. `ended` once a stop string was found; the text stops before it."""

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        assert all(stops), "an empty stop string"
        self._decode, self._stops = decode, tuple(stops)
        self._ids: list[int] = []
        self._held = ""
        self.ended = False

    def push(self, new_id: int) -> str:
        """Text that is certain with this id; often one piece, sometimes nothing yet."""
        if self.ended:
            return ""
        self._ids.append(new_id)
        text = self._decode(self._ids)
        if text.endswith(_UNFINISHED) and len(self._ids) < _LONGEST_CHARACTER_IDS:
            return ""
        self._ids.clear()
        return self._certain(self._held + text)

    def rest(self) -> str:
        """What was held back, once nothing more comes."""
        if self.ended:
            return ""
        left = self._held + (self._decode(self._ids) if self._ids else "")
        self._ids.clear()
        self._held = ""
        found = self._first_stop(left)
        self.ended = found is not None
        return left if found is None else left[:found]

    def _certain(self, text: str) -> str:
        found = self._first_stop(text)
        if found is not None:
            self.ended, self._held = True, ""
            return text[:found]
        safe = len(text) - self._possible_stop(text)
        self._held = text[safe:]
        return text[:safe]

    def _first_stop(self, text: str) -> int | None:
        return min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=None)

    def _possible_stop(self, text: str) -> int:
        """Letters at the end of `text` that may be the beginning of a stop string."""
        lengths = (
            length
            for stop in self._stops
            for length in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:length])
        )
        return max(lengths, default=0)


def until_stop(text: str, stops: Sequence[str]) -> str:
    """`text` before the first of the stop strings in it."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]
