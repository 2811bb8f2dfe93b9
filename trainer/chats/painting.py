"""An encoded conversation for people: every token visible, and whether it is learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trainer.chats.encoding import Encoded

_LEARNT, _READ, _PLAIN = ("\x1b[30;42m", "\x1b[30;102m"), ("\x1b[0m", "\x1b[2m"), "\x1b[0m"
"""Two shades each, in turn, so that tokens can be told apart."""
_LONGEST_CHARACTER_IDS = 8


def painted(row: Encoded, decode: Callable[[list[int]], str], *, in_colour: bool) -> str:
    """The text of a row; learnt tokens on green, or between ⟦ and ⟧ without colour."""
    pieces = list(_pieces(row, decode))
    if in_colour:
        shades = ((_LEARNT if learnt else _READ)[i % 2] + text for i, (text, learnt) in enumerate(pieces))
        return "".join(shades) + _PLAIN
    text, was_learnt = "", False
    for piece, learnt in pieces:
        text += ("⟦" if learnt else "⟧") * (learnt != was_learnt) + piece
        was_learnt = learnt
    return text + "⟧" * was_learnt


def _pieces(row: Encoded, decode: Callable[[list[int]], str]) -> Iterator[tuple[str, bool]]:
    """Each token's text; ids that are parts of one character come together."""
    held: list[int] = []
    ids, learnt = row.ids.tolist(), row.is_trained.tolist()
    for place, (token, is_learnt) in enumerate(zip(ids, learnt, strict=True)):
        held.append(token)
        text = decode(held)
        changes = place + 1 == len(ids) or learnt[place + 1] != is_learnt
        if not text.endswith("\ufffd") or changes or len(held) >= _LONGEST_CHARACTER_IDS:
            yield text, is_learnt
            held = []
