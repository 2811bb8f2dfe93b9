"""A model whose matrices are packed for as long as it writes.

On a CPU a text takes half the time from packed matrices (`packed`), which take as much memory once more and the time of
some ten tokens to make. So they are made for texts that are long enough, where memory allows; they go when the text is
written, but stay with a model that was not training, until its weights change. What cannot be packed (a GPU's weights,
those spread over ranks, a compiled model, anything under autocast) is left alone. One text of a GPT-2 in fp32 has a
forward of its own, `one_row`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from trainer.models.language_model import LanguageModel, Linear
from trainer.models.model import GPT
from trainer.models.one_row import OneRow, is_plain_gpt2
from trainer.models.packed import DTYPES, Layer, Product, packed

MIN_TOKENS = 24
"""A shorter text is not worth it: packing GPT-2 124M took 0.3 s where a token then took 28 ms instead of 47."""

MIN_WEIGHTS = 2**17
"""A smaller matrix stays in the processor's cache, where its order does not matter."""

_MEMORY = Path("/proc/meminfo")
"""Of Linux."""

Packable = Linear | LanguageModel
"""A model is where its head is tied: then no module has the head's matrix for its own."""


@dataclass(frozen=True)
class _Kept:
    """What was made, and of what. It must not hold the model, or the model would never go."""

    of: tuple[object, ...]
    products: list[Product]
    one_row: OneRow | None


_kept: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


@contextmanager
def decoding(model: nn.Module, *, rows: int, tokens: int) -> Iterator[OneRow | None]:
    """Within it, products without gradients are those of matrices packed for `rows` rows, where that is worth it.

    What comes, for one row, is a faster way to its next logits than calling the model.
    """
    modules = _packable(model)
    was_training = model.training
    made = _made(model, modules, rows == 1, tokens)
    for module, product in zip(modules, made.products, strict=False):
        module.packed = product
    try:
        yield made.one_row
    finally:
        for module in modules:
            module.packed = None
        if was_training:
            _kept.pop(model, None)


def _made(model: nn.Module, modules: list[Packable], is_one_row: bool, tokens: int) -> _Kept:
    """What was kept, made anew where it is not of these weights; without products where they are not worth it."""
    is_plain = is_one_row and is_plain_gpt2(model)
    weights = list(model.parameters()) if is_plain else list(map(_weight_of, modules))
    of = (is_one_row, is_plain, len(modules), *((each.data_ptr(), each._version) for each in weights))
    kept = _kept.get(model)
    if kept is not None and kept.of == of:
        return kept
    _kept.pop(model, None)
    if tokens < MIN_TOKENS or not _have_room(modules):
        return _Kept(of, [], None)
    products = packed([Layer(_weight_of(each), getattr(each, "bias", None)) for each in modules], is_one_row=is_one_row)
    one_row = OneRow(cast(GPT, model), dict(zip(modules, products, strict=True))) if is_plain else None
    _kept[model] = made = _Kept(of, products, one_row)
    return made


def _packable(model: nn.Module) -> list[Packable]:
    if torch.is_autocast_enabled("cpu") or hasattr(model, "_orig_mod"):  # the latter: compiled
        return []
    found = [each for each in model.modules() if isinstance(each, Linear) or _is_its_own_head(each)]
    return [each for each in found if _is_worth_it(_weight_of(each))]


def _is_its_own_head(module: nn.Module) -> TypeGuard[LanguageModel]:
    return isinstance(module, LanguageModel) and module.head is None


def _is_worth_it(weight: Tensor) -> bool:
    is_plain = type(weight) is nn.Parameter and weight.device.type == "cpu" and not weight.is_inference()
    return is_plain and weight.dtype in DTYPES and weight.numel() >= MIN_WEIGHTS


def _weight_of(module: Packable) -> Tensor:
    return module.head_weight if isinstance(module, LanguageModel) else module.weight


def _have_room(modules: list[Packable]) -> bool:
    """Whether the copies fit into half of the memory that is to be had; yes where the system does not tell."""
    needed = sum(weight.numel() * weight.element_size() for weight in map(_weight_of, modules))
    if not _MEMORY.exists():
        return True
    (available_kb,) = (line.split()[1] for line in _MEMORY.read_text().splitlines() if line.startswith("MemAvailable:"))
    return needed <= int(available_kb) * 1024 // 2
