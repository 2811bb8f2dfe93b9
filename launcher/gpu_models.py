"""Whether two names mean one GPU: what a person writes, what a market sells, what nvidia-smi shows.

`H100 SXM` is sold by a market, `H100_SXM` is written by its users, and `NVIDIA H100 80GB HBM3` is what a machine shows.
The model must be the same word for word; form (SXM, PCIe, NVL) and memory only where both names tell them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_MAKERS = {"nvidia", "geforce", "tesla", "quadro"}
_FORM = re.compile(r"(sxm|pcie|nvl)\d*")
_MEMORY = re.compile(r"\d+gb?|\d+gib")
_MEMORY_KIND = re.compile(r"hbm\d+e?")


def is_one_of(name: str, wanted: Iterable[str]) -> bool:
    """Whether `name` is one of the wanted models at least; true where none is given."""
    wanted = tuple(wanted)
    return not wanted or any(is_model(name, each) for each in wanted)


def is_model(name: str, wanted: str) -> bool:
    """Whether the GPU called `name` is what somebody called `wanted`."""
    return (
        _follows(_model_words(name), "".join(_model_words(wanted)))
        and _agree(_forms(name), _forms(wanted))
        and _agree(_memory(name), _memory(wanted))
    )


def _follows(words: list[str], wanted: str) -> bool:
    """Words of the name, one after the other and however they are joined, are all that is wanted."""
    ends = range(len(words) + 1)
    return any("".join(words[start:end]) == wanted for start in ends for end in ends[start:]) if wanted else True


def _agree(one: set[str], other: set[str]) -> bool:
    return not one or not other or bool(one & other)


def _words(name: str) -> list[str]:
    # `80 GB` is one word, as `80GB` is.
    return re.findall(r"[^\W_]+", re.sub(r"(\d)\s+(gi?b)\b", r"\1\2", name.lower()))


def _model_words(name: str) -> list[str]:
    told = (_FORM, _MEMORY_KIND)
    return [
        word
        for word in _words(name)
        if word not in _MAKERS and not any(kind.fullmatch(word) for kind in told) and not _is_memory(word)
    ]


def _forms(name: str) -> set[str]:
    return {found[1] for word in _words(name) if (found := _FORM.fullmatch(word))}


def _memory(name: str) -> set[str]:
    return {re.sub(r"\D", "", word) for word in _words(name) if _is_memory(word)}


def _is_memory(word: str) -> bool:
    return bool(_MEMORY.fullmatch(word)) and word.endswith(("g", "gb", "gib"))
