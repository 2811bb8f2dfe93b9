"""Log-probability of every label, one number a token, without ever holding the logits of a whole batch.

Only labels that count are computed. The logits of a slice are made again in the backward instead of being kept.
"""

# M = tokens (all sequences in a row), D = d_model, V = vocabulary, K = tokens whose label counts, C = tokens of a slice

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.models.loss import IGNORE_INDEX

SLICE_LOGITS = 2**24
"""Logits in fp32 that are alive at a time: 64 MB, twice in the backward."""


def linear_token_logps(hidden_MD: Tensor, weight_VD: Tensor, labels_M: Tensor) -> Tensor:
    """log softmax(hidden @ weight.T)[label], (M,) in fp32; 0 where the label is IGNORE_INDEX."""
    places_K = (labels_M != IGNORE_INDEX).nonzero().squeeze(-1)
    hidden_KD, labels_K = hidden_MD[places_K], labels_M[places_K]
    rows = max(1, SLICE_LOGITS // weight_VD.shape[0])
    parts = [
        _slice(hidden_CD, weight_VD, labels_C)
        for hidden_CD, labels_C in zip(torch.split(hidden_KD, rows), torch.split(labels_K, rows), strict=True)
    ]
    # A rank may have no label that counts; its sum of nothing must still reach every parameter.
    logps_K = torch.cat(parts) if parts else hidden_KD.float().sum(-1) + 0 * weight_VD.float().sum()
    return torch.zeros(labels_M.shape, device=hidden_MD.device).index_add(0, places_K, logps_K)


def _slice(hidden_CD: Tensor, weight_VD: Tensor, labels_C: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return _logps(hidden_CD, weight_VD, labels_C)
    logps_C: Tensor = checkpoint(_logps, hidden_CD, weight_VD, labels_C, use_reentrant=False)
    return logps_C


def _logps(hidden_CD: Tensor, weight_VD: Tensor, labels_C: Tensor) -> Tensor:
    return -F.cross_entropy(F.linear(hidden_CD, weight_VD).float(), labels_C, reduction="none")
