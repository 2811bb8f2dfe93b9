"""Cut a long text where cutting changes no id.

A tokenizer must not be given gigabytes at once, and one book should keep every
core busy. BPE tokenizers split text with a pattern first, and no match of
GPT-2's, nor of the later ones that are read here, reaches from a non-space into
a following space. So a cut in front of a space that follows a non-space gives
the same ids. Of GPT-2's pattern that is true of newlines as well: they are taken
where there is no space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

PIECE_CHARACTERS = 1 << 17
"""Longest piece. tiktoken 0.14 dies of a stack overflow on 500,000 characters of white space; 262,144 were fine."""

_CUTS = (re.compile(r"(?<=\S) "), re.compile(r"(?<=\S)\n"))
_TAIL = 1 << 10


def pieces(blocks: Iterable[str], limit: int = PIECE_CHARACTERS) -> Iterator[str]:
    """The text of `blocks`, joined and cut into pieces of at most `limit` characters.

    Where the cuts are depends on the text alone, not on the blocks. A stretch of `limit` characters without any
    place to cut is cut hard: such a text decodes the same, its ids may differ from those of the whole.
    """
    rest = ""
    for block in blocks:
        text, start = rest + block, 0
        while len(text) - start > limit:
            end = _last_cut(text, start, start + limit)
            yield text[start:end]
            start = end
        rest = text[start:]
    if rest:
        yield rest


def _last_cut(text: str, start: int, end: int) -> int:
    """The last place in (start, end] where a cut changes nothing, else `end`."""
    for cut in _CUTS:
        for first in (max(start + 1, end - _TAIL), start + 1):
            found = [match.start() for match in cut.finditer(text, first, end + 1)]
            if found:
                return found[-1]
    return end
