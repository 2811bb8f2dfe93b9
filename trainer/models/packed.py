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

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""`x @ weight.T + bias` of `x` (..., I), as (..., O)."""

DTYPES = (torch.float32, torch.bfloat16)

_BLOCKED_FOR = 8
"""Rows that blocks are made for; they serve any number from two to some thirty better than the plain matrix."""


_LINE = 16
"""Numbers of fp32 in a line of the processor's cache: a matrix begins where one does."""


class Layer(NamedTuple):
    """What a linear layer multiplies with, and what it adds."""

    weight_OI: Tensor
    bias_O: Tensor | None


def packed(layers: Sequence[Layer], *, is_one_row: bool) -> list[Product]:
    """The products with copies of the weights, CPU matrices of DTYPES; for one row only, or for any number.

    They compute no gradients and do not notice when a weight changes.
    """
    layers = [Layer(weight_OI.detach(), bias_O) for weight_OI, bias_O in layers]
    if not is_one_row:
        return [_in_blocks(layer, _BLOCKED_FOR) for layer in layers]
    memory = _LargePages([layer.weight_OI for layer in layers if _is_streamed(layer)])
    return [LongRows(layer, memory) if _is_streamed(layer) else _in_blocks(layer, 1) for layer in layers]


def _is_streamed(layer: Layer) -> bool:
    return layer.weight_OI.dtype == torch.float32


class LongRows:
    """A matrix whichever way round its rows are longer: a product with one vector streams along them.

    Several rows, those of a prompt, go to oneDNN: 32 of them took 124M at 72 Gflop/s there, at 57 by `F.linear`.
    """

    def __init__(self, layer: Layer, memory: _LargePages) -> None:
        weight_OI, self._bias_O = layer
        outputs, inputs = weight_OI.shape
        self.weight_OI = memory.copy_of(weight_OI) if inputs > outputs else memory.copy_of(weight_OI.t()).t()

    def __call__(self, x: Tensor) -> Tensor:
        outputs, inputs = self.weight_OI.shape
        if x.numel() > inputs:
            return _product(x, self.weight_OI, self._bias_O)
        x_I = x.reshape(inputs)
        y_O = self.weight_OI.mv(x_I) if self._bias_O is None else torch.addmv(self._bias_O, self.weight_OI, x_I)
        return y_O.view(*x.shape[:-1], outputs)


def _in_blocks(layer: Layer, rows: int) -> Product:
    """In oneDNN's own order for so many rows, as torch's compiler prepares constant weights."""
    weight_OI, bias_O = layer
    if not _HAS_ONEDNN:
        return lambda x: F.linear(x, weight_OI, bias_O)
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), rows)
    return lambda x: _product(x, blocks, bias_O)


def _product(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    if not _HAS_ONEDNN:
        return F.linear(x, weight_OI, bias_O)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")
    return y


class _LargePages:
    """Memory for matrices, NumPy's: it asks Linux for pages of 2 MB where a piece is larger than two, torch does not.

    In one piece, so that small matrices lie on such pages too. In GB/s, by torch's memory, a piece each, one piece:
    GPT-2 124M 14.1, 17.3, 18.4; a model of 10M 11.7, 12.0, 14.4.
    """

    def __init__(self, matrices: Sequence[Tensor]) -> None:
        numbers = sum(map(_in_whole_lines, matrices))
        self._free = torch.from_numpy(np.empty(numbers, dtype=np.float32))

    def copy_of(self, matrix: Tensor) -> Tensor:
        taken, self._free = self._free.tensor_split([_in_whole_lines(matrix)])
        return taken[: matrix.numel()].view(matrix.shape).copy_(matrix)


def _in_whole_lines(matrix: Tensor) -> int:
    return -(-matrix.numel() // _LINE) * _LINE


_HAS_ONEDNN = all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
"""Whether this torch was built with it; the two operators are not part of its public interface."""
