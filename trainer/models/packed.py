"""A matrix laid out for products with few rows, which on a CPU cost what reading the matrix costs.

Generating one token of one text reads every weight once and computes next to nothing. As a matrix lies in a model
(outputs x inputs), `F.linear` reads it at half the speed of the memory. Measured on one Zen 4 core, whose memory gives
25 GB/s, fp32, matrices of GPT-2 124M, in GB/s:

    rows                        1      2      4      8
    F.linear, 3072 x 768       12      6      6      7
    here                       21     11     15     11
    F.linear, 50257 x 768      12      6      6      5
    here                       23     12     19     14

The products are those of the matrix but for the order in which fp32 adds. It refuses to know about models.
"""

# O = outputs, I = inputs

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""`x @ weight.T + bias` of `x` (..., I), as (..., O)."""

DTYPES = (torch.float32, torch.bfloat16)

_BLOCKED_FOR = 8
"""Rows that blocks are made for; they serve any number from two to some thirty better than the plain matrix."""


def packed(weight_OI: Tensor, bias_O: Tensor | None, *, is_one_row: bool) -> Product:
    """The product with a copy of `weight_OI`, a CPU matrix of one of DTYPES; for one row only, or for any number.

    It computes no gradients and does not notice when the matrix changes.
    """
    if is_one_row and weight_OI.dtype == torch.float32:
        return _with_long_rows(weight_OI.detach(), bias_O)
    if not _has_blocks():
        return lambda x: F.linear(x, weight_OI, bias_O)
    return _in_blocks(weight_OI.detach(), bias_O, 1 if is_one_row else _BLOCKED_FOR)


def _with_long_rows(weight_OI: Tensor, bias_O: Tensor | None) -> Product:
    """Whichever way round its rows are longer: a product with one vector streams along them."""
    outputs, inputs = weight_OI.shape
    own_OI = _on_large_pages(weight_OI) if inputs > outputs else _on_large_pages(weight_OI.t()).t()
    return lambda x: F.linear(x, own_OI, bias_O)


def _in_blocks(weight_OI: Tensor, bias_O: Tensor | None, rows: int) -> Product:
    """In oneDNN's own order for so many rows, as torch's compiler prepares constant weights."""
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), rows)

    def product(x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, blocks, bias_O, "none", [], "")
        return y

    return product


def _has_blocks() -> bool:
    """Whether this torch was built with oneDNN; the two operators are not part of its public interface."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return all(hasattr(torch.ops.mkldnn, name) for name in names)


def _on_large_pages(matrix: Tensor) -> Tensor:
    """A copy in NumPy's memory: NumPy asks Linux for pages of 2 MB, torch does not, and reading is a tenth faster."""
    copy = torch.from_numpy(np.empty(matrix.shape, dtype=np.float32))
    return copy.copy_(matrix)
