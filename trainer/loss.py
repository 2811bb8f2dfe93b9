"""Cross entropy of a linear head, summed over tokens, without ever holding the logits of a whole batch.

Promises the exact sum and exact gradients (no sampling, no approximation): the
rows are taken in slices, and each slice's logits become its gradient in place.
A plain `F.cross_entropy(hidden @ weight.T)` keeps three tensors of tokens × vocabulary;
for GPT-2 and 1,024 tokens that is 600 MB, more than all weights.
It refuses to know what the labels mean or what the sum is divided by.
"""

# M = tokens (all sequences in a row), D = d_model, V = vocabulary, C = tokens of a slice

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = -100
"""A label that is not to be predicted: it adds nothing to the loss and nothing to the gradient."""

SLICE_LOGITS = {"cpu": 2**24}
"""Logits alive at a time, by device. On CPUs 64 MiB of fp32."""
DEFAULT_SLICE_LOGITS = 2**27


def linear_cross_entropy(hidden_MD: Tensor, weight_VD: Tensor, labels_M: Tensor) -> Tensor:
    """Sum of -log softmax(hidden @ weight.T)[label] over the labels that are not IGNORE_INDEX; an fp32 scalar.

    Follows autocast as `F.linear` would. The matrix products run in the compute dtype, the softmax always in fp32.
    """
    dtype = compute_dtype(hidden_MD)
    hidden_MD, weight = hidden_MD.to(dtype), weight_VD.to(dtype)
    with torch.autocast(hidden_MD.device.type, enabled=False):
        if dtype == torch.float16:
            # fp16 gradients only fit their range times the loss scale, and that is not known before the backward.
            return F.cross_entropy((hidden_MD @ weight.t()).float(), labels_M, reduction="sum")
        loss_sum: Tensor = _LinearCrossEntropy.apply(hidden_MD, weight, labels_M)  # type: ignore[no-untyped-call]
        return loss_sum


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """What a matrix product with `tensor` is computed in: autocast's dtype where it is on, else the tensor's own."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


class _LinearCrossEntropy(torch.autograd.Function):
    """Both gradients are made in the forward, while a slice's probabilities are at hand; backward only scales them."""

    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, labels_M: Tensor) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        slice_logits = SLICE_LOGITS.get(hidden_MD.device.type, DEFAULT_SLICE_LOGITS)
        rows = max(1, slice_logits // weight_VD.shape[0])
        loss_sum = hidden_MD.new_zeros((), dtype=torch.float32)
        grad_hidden_MD = torch.empty_like(hidden_MD) if wants_gradient else None
        grad_weight_VD = torch.zeros_like(weight_VD) if wants_gradient else None
        for start in range(0, hidden_MD.shape[0], rows):
            part = slice(start, start + rows)
            hidden_CD, labels_C = hidden_MD[part], labels_M[part]
            logits_CV = (hidden_CD @ weight_VD.t()).float()
            loss_sum += _cross_entropy_sum(logits_CV, labels_C)
            if grad_hidden_MD is not None and grad_weight_VD is not None:
                grad_CV = logits_CV.to(hidden_MD.dtype)
                torch.mm(grad_CV, weight_VD, out=grad_hidden_MD[part])
                grad_weight_VD.addmm_(grad_CV.t(), hidden_CD)
        ctx.save_for_backward(grad_hidden_MD, grad_weight_VD)
        return loss_sum

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden_MD, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_MD * grad, grad_weight_VD.mul_(grad), None


def _cross_entropy_sum(logits_CV: Tensor, labels_C: Tensor) -> Tensor:
    """The loss of a slice. Turns `logits_CV` into its gradient, softmax minus one-hot."""
    kept_C = labels_C != IGNORE_INDEX
    at_C1 = torch.where(kept_C, labels_C, 0)[:, None]
    logsumexp_C = logits_CV.logsumexp(-1)
    loss_C = logsumexp_C - logits_CV.gather(-1, at_C1).squeeze(-1)
    logits_CV.sub_(logsumexp_C[:, None]).exp_()
    logits_CV.scatter_add_(-1, at_C1, -torch.ones_like(at_C1, dtype=logits_CV.dtype))
    logits_CV.mul_(kept_C[:, None])
    return (loss_C * kept_C).sum()
