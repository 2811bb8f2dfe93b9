"""Which id comes next: temperature, top-k, top-p, and a draw that depends on nothing but a seed.

The draw of a token is a pure function of (seed, row, how many tokens the row has): a row's text does not depend on
which other rows are in its batch, nor on when they ended.
"""

# B = sequences, V = vocabulary, K = ids that may be chosen

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How ids are drawn."""

    temperature: float = 1.0
    """0 takes the likeliest id."""
    top_k: int = 0
    """Choose from so many of the likeliest; 0 switches the limit off."""
    top_p: float = 1.0
    """After `top_k`: choose from the likeliest ids that together have this share of the probability."""
    seed: int = 0


def sampled_ids(logits_BV: Tensor, sampling: Sampling, uniforms_B: Tensor) -> Tensor:
    """One id a row, (B,), on the CPU: where `uniforms_B` (float64 in [0, 1)) falls in the distribution that is left.

    In fp32 on the CPU whatever the device, so that equal logits give equal text on every machine.
    """
    if sampling.temperature == 0:
        if logits_BV.is_cpu and logits_BV.dtype == torch.float32:  # in a tenth of torch's time
            return torch.from_numpy(logits_BV.detach().numpy().argmax(-1))
        return logits_BV.argmax(-1).cpu()
    logits_BK, ids_BK = _likeliest(logits_BV.float().cpu(), sampling)
    probs_BK = (logits_BK / sampling.temperature).double().softmax(-1)
    if sampling.top_p < 1:
        # An id stays while the likelier ones together are short of top_p; the likeliest always does.
        probs_BK = probs_BK * (probs_BK.cumsum(-1) - probs_BK < sampling.top_p)
    mass_BK = probs_BK.cumsum(-1)
    total_B1 = mass_BK[:, -1:].contiguous()
    drawn_B1 = torch.searchsorted(mass_BK, uniforms_B[:, None] * total_B1, right=True)
    # Should rounding point past it: the first id with which the mass is whole has a probability, those after it none.
    chosen_B1 = torch.minimum(drawn_B1, torch.searchsorted(mass_BK, total_B1))
    return (chosen_B1 if ids_BK is None else ids_BK.gather(-1, chosen_B1)).squeeze(-1)


def uniforms(seed: int, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """For each row a number in [0, 1), (B,) in float64, for its token of that number."""
    start = np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    with np.errstate(over="ignore"):
        states = start + np.asarray(tokens, dtype=np.uint64)
        mixed = _splitmix(_splitmix(np.asarray(rows, dtype=np.uint64)) ^ _splitmix(states))
    return torch.from_numpy((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _likeliest(logits_BV: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor | None]:
    """The logits that may be chosen, likeliest first where that matters, and their ids; None: they are the places."""
    if sampling.top_k:
        values_BK, ids_BK = logits_BV.topk(min(sampling.top_k, logits_BV.shape[-1]), dim=-1)
        return values_BK, ids_BK
    if sampling.top_p < 1:
        values_BV, ids_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
        return values_BV, ids_BV
    return logits_BV, None


def _splitmix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea, Flood 2014), which turns counters into random bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed
