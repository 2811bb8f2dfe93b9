"""The products of training, x @ weight.T and its gradients, by whichever library is fastest.

On a CPU torch gives products in fp32 to MKL. oneDNN, which it has for bf16, takes less time for two of the three
products of a linear layer. In bf16 it adds the bias within the product, where torch writes it first. Measured on one
Zen 4 core, in Gflop/s, torch against oneDNN called by itself, 1,024 tokens:

    layer             768 -> 2304   768 -> 3072   3072 -> 768   768 -> 50257
    fp32 forward          90   103      84    98      75   101       52    79
    fp32 to the input     94    99      90    97      79    87       78    85
    bf16 forward         190   200     178   199     204   208

The gradient of the weight stays with torch: with 4,096 tokens oneDNN takes a tenth more there. The numbers differ only
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
    """`F.linear`, with its gradients; follows autocast as that does."""
    dtype = compute_dtype(x)
    if not _is_faster(x, weight_OI, dtype):
        return F.linear(x, weight_OI, bias_O)
    y: Tensor = _Linear.apply(x, weight_OI, bias_O, dtype)  # type: ignore[no-untyped-call]
    return y


def times_transposed(x_MI: Tensor, weight_OI: Tensor) -> Tensor:
    """`x @ weight.T`, without gradients and without autocast."""
    return _product(x_MI, weight_OI) if _is_faster(x_MI, weight_OI, x_MI.dtype) else x_MI @ weight_OI.t()


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """What a matrix product with `tensor` is computed in: autocast's dtype where it is on, else the tensor's own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, dtype: torch.dtype) -> Tensor:
        ctx.dtypes = x.dtype, weight_OI.dtype
        x, weight_OI = x.to(dtype), weight_OI.to(dtype)
        ctx.save_for_backward(x, weight_OI)
        return _product(x, weight_OI, None if bias_O is None else bias_O.to(dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight_OI = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad_MO = grad.flatten(0, -2)
        return (
            _product(grad, weight_OI.t()).to(x_dtype) if needs_x else None,
            (grad_MO.t() @ x.flatten(0, -2)).to(weight_dtype) if needs_weight else None,
            grad_MO.sum(0).to(weight_dtype) if needs_bias else None,
            None,
        )


def _product(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    if torch.compiler.is_compiling():
        traced: Tensor = _traced_product(x, weight_OI, bias_O)
        return traced
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")
    return y


@torch.library.custom_op("gptops::linear", mutates_args=(), device_types="cpu")
def _traced_product(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """The same with a shape that a compiler can know; oneDNN's operator tells it none."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")
    return y


@_traced_product.register_fake
def _shape_of_product(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight_OI.shape[0])


def _is_faster(x: Tensor, weight_OI: Tensor, dtype: torch.dtype) -> bool:
    if x.device.type != "cpu" or dtype not in _BY_ONEDNN:
        return False
    if torch.compiler.is_compiling() and dtype != torch.float32:  # its own products in bf16 are as fast, in less memory
        return False
    is_alike = x.dtype == weight_OI.dtype or torch.is_autocast_enabled("cpu")
    return is_alike and x.numel() * weight_OI.shape[0] >= MIN_MULTIPLICATIONS


def _by_onednn() -> frozenset[torch.dtype]:
    """What it computes in here; the operator is not part of torch's public interface."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # not every build of torch has it
        return frozenset()
    has_bf16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return frozenset({torch.float32, torch.bfloat16} if has_bf16 else {torch.float32})


_BY_ONEDNN = _by_onednn()
