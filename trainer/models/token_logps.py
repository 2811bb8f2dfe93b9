"""Log-probability of every label, one number a token, without ever holding the logits of a whole batch.

Only labels that count are computed, in slices. The logits of the first slice are kept for the backward, so that what is
small is computed once; those of the others are made again there. They turn into their gradient in place.
"""

# M = tokens (all sequences in a row), K = tokens whose label counts, C = tokens of a slice, R = tokens of a softmax,
# D = d_model, V = vocabulary

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from trainer.models.loss import IGNORE_INDEX, added, softmax_rows
from trainer.models.products import compute_dtype

SLICE_LOGITS = 2**25
"""Logits that are alive at a time, twice in the backward of several slices: 128 MB in fp32, 667 tokens of GPT-2."""


def linear_token_logps(hidden_MD: Tensor, weight_VD: Tensor, labels_M: Tensor) -> Tensor:
    """log softmax(hidden @ weight.T)[label], (M,) in fp32; 0 where the label is IGNORE_INDEX.

    Follows autocast as `F.linear` would: the matrix products run in its dtype, the softmax always in fp32.
    """
    places_K = (labels_M != IGNORE_INDEX).nonzero().squeeze(-1)
    dtype = compute_dtype(hidden_MD)
    with torch.autocast(hidden_MD.device.type, enabled=False):
        logps_K = _LinearLogps.apply(hidden_MD[places_K], weight_VD, labels_M[places_K], dtype)  # type: ignore[no-untyped-call]
        return torch.zeros(labels_M.shape, device=hidden_MD.device).index_add(0, places_K, logps_K)


class _LinearLogps(torch.autograd.Function):
    """Of K tokens, whose labels all count."""

    @staticmethod
    def forward(ctx: Any, hidden_KD: Tensor, weight_VD: Tensor, labels_K: Tensor, dtype: torch.dtype) -> Tensor:
        cast_VD = weight_VD.to(dtype)
        logps_K = hidden_KD.new_empty(len(labels_K), dtype=torch.float32)
        logsumexp_K = torch.empty_like(logps_K)
        kept = None
        for part in _slices(hidden_KD, weight_VD):
            logits_CV = hidden_KD[part].to(dtype) @ cast_VD.t()
            logps_K[part], logsumexp_K[part] = _logps(logits_CV, labels_K[part])
            if part.start == 0 and any(ctx.needs_input_grad):
                kept = logits_CV
            del logits_CV  # before the next slice is made
        ctx.dtype = dtype
        ctx.save_for_backward(hidden_KD, weight_VD, labels_K, logsumexp_K, kept)
        return logps_K

    @staticmethod
    def backward(ctx: Any, grad_K: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        hidden_KD, weight_VD, labels_K, logsumexp_K, kept = ctx.saved_tensors
        cast_VD, grad_hidden_KD = weight_VD.to(ctx.dtype), torch.empty_like(hidden_KD)
        grad_weight_VD: Tensor | None = None
        for part in _slices(hidden_KD, weight_VD):
            hidden_CD = hidden_KD[part].to(ctx.dtype)
            logits_CV = hidden_CD @ cast_VD.t() if part.start else kept  # used up: autograd refuses a second backward
            _turn_into_gradient(logits_CV, labels_K[part], logsumexp_K[part], grad_K[part])
            grad_hidden_KD[part] = logits_CV @ cast_VD
            if ctx.needs_input_grad[1]:  # a frozen head needs none: adapters
                grad_weight_VD = added(grad_weight_VD, logits_CV.t() @ hidden_CD)
            del logits_CV
        if not ctx.needs_input_grad[1]:
            return grad_hidden_KD, None, None, None
        if grad_weight_VD is None:  # a rank may have no label that counts; every parameter is still reached
            return grad_hidden_KD, torch.zeros_like(weight_VD), None, None
        return grad_hidden_KD, grad_weight_VD.to(weight_VD.dtype), None, None


def _slices(hidden_KD: Tensor, weight_VD: Tensor) -> Iterator[slice]:
    rows = max(1, SLICE_LOGITS // weight_VD.shape[0])
    return (slice(start, start + rows) for start in range(0, hidden_KD.shape[0], rows))


def _logps(logits_CV: Tensor, labels_C: Tensor) -> tuple[Tensor, Tensor]:
    """Of each label, and the logarithm of the sum that it was divided by."""
    rows, parts = softmax_rows(logits_CV), []
    for logits_RV in torch.split(logits_CV, rows):
        parts.append(logits_RV.float().logsumexp(-1))
    logsumexp_C = torch.cat(parts)
    return logits_CV.gather(-1, labels_C[:, None]).squeeze(-1).float() - logsumexp_C, logsumexp_C


def _turn_into_gradient(logits_CV: Tensor, labels_C: Tensor, logsumexp_C: Tensor, grad_C: Tensor) -> None:
    """Each logit becomes what moves it: (1 where it is the label's, less its probability) times `grad`."""
    rows = softmax_rows(logits_CV)
    split = (torch.split(each, rows) for each in (logits_CV, labels_C[:, None], logsumexp_C[:, None], grad_C[:, None]))
    for logits_RV, labels_R1, logsumexp_R1, grad_R1 in zip(*split, strict=True):
        moves_RV = (logits_RV.float() - logsumexp_R1).exp_().mul_(-grad_R1)
        moves_RV.scatter_add_(-1, labels_R1, grad_R1.float())
        logits_RV.copy_(moves_RV)
