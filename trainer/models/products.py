"""The products of training, x @ weight.T and its gradients, by whichever library is fastest.

On a CPU torch gives products in fp32 to MKL. oneDNN, which it has for bf16, takes less time for two of the three
products of a linear layer. Measured on one Zen 4 core, in Gflop/s, MKL against oneDNN, 1,024 tokens:

    layer           768 -> 2304   768 -> 3072   3072 -> 768   768 -> 50257
    forward            90   103      84    98      75   101       52    79
    to the input       94    99      90    97      79    87       78    85

The gradient of the weight stays with MKL: with 4,096 tokens oneDNN takes a tenth more there. The numbers differ only
by the order in which fp32 adds.
"""

# M = tokens, O = outputs, I = inputs

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_MULTIPLICATIONS = 2**27
"""Of a product; for smaller ones, as for tens of tokens, setting oneDNN up costs what it saves."""


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`F.linear`, with its gradients."""
    if not _is_faster(x, weight_OI):
        return F.linear(x, weight_OI, bias_O)
    y: Tensor = _Linear.apply(x, weight_OI, bias_O)  # type: ignore[no-untyped-call]
    return y


def times_transposed(x_MI: Tensor, weight_OI: Tensor) -> Tensor:
    """`x @ weight.T`, without gradients."""
    return _product(x_MI, weight_OI) if _is_faster(x_MI, weight_OI) else x_MI @ weight_OI.t()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_OI)
        return _product(x, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight_OI = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_MO = grad.flatten(0, -2)
        return (
            _product(grad, weight_OI.t()) if needs_x else None,
            grad_MO.t() @ x.flatten(0, -2) if needs_weight else None,
            grad_MO.sum(0) if needs_bias else None,
        )


def _product(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")
    return y


def _is_faster(x: Tensor, weight_OI: Tensor) -> bool:
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    is_fp32 = x.dtype == weight_OI.dtype == torch.float32
    return is_fp32 and x.numel() * weight_OI.shape[0] >= MIN_MULTIPLICATIONS and _HAS_ONEDNN


_HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this torch was built with it; the operator is not part of torch's public interface."""
