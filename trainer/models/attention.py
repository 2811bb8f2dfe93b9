"""Causal attention, in one function for every network, with or without a cache and document borders.

Documents in a row are told apart by ids: attention does not cross a change of id, and positions begin anew there, so a
row computes what its documents would compute alone.
"""

# B = sequences, N = heads, T = tokens (queries), S = keys, H = head dim

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHARED = -1
"""The id of a document that the others of its row go on from: they see it. Their positions have to be given."""

_FP32_UP_TO_KEYS = 512
"""On a CPU, bf16 attention over few keys is slower than fp32: measured on Zen 4, forward and backward, 64 keys with
heads of 32: 8.0 ms against 2.9 ms; 256 with heads of 64: 47 against 41; 1,024: 103 against 130."""


def attention(
    q_BNTH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, *, mask_B1TS: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """What each query takes from the keys it may see, (B, N, T, H), in the dtype of the values.

    Without a mask the queries are the last T of the S tokens, and each sees itself and what is before it. `mask_B1TS`
    (true: may see) says everything instead; it broadcasts over batch and heads.
    """
    dtype, T, S = v_BNSH.dtype, q_BNTH.shape[2], k_BNSH.shape[2]
    if mask_B1TS is None and 1 < T < S:  # SDPA's is_causal counts from the first key, ours ends at the last one
        mask_B1TS = torch.ones(T, S, dtype=torch.bool, device=q_BNTH.device).tril(S - T)
    is_causal = False
    if mask_B1TS is None and T == S:  # an `if`, because a compiler that leaves T open has no bool for T == S
        is_causal = True
    if dtype == torch.bfloat16 and q_BNTH.device.type == "cpu" and S <= _FP32_UP_TO_KEYS:
        with torch.autocast("cpu", enabled=False):  # which would cast back
            q_BNTH, k_BNSH, v_BNSH = q_BNTH.float(), k_BNSH.float(), v_BNSH.float()
            y_BNTH = F.scaled_dot_product_attention(
                q_BNTH, k_BNSH, v_BNSH, attn_mask=mask_B1TS, dropout_p=dropout, is_causal=is_causal
            )
        return y_BNTH.to(dtype)
    return F.scaled_dot_product_attention(
        q_BNTH.to(dtype), k_BNSH.to(dtype), v_BNSH, attn_mask=mask_B1TS, dropout_p=dropout, is_causal=is_causal
    )


def document_mask(documents_BT: Tensor) -> Tensor:
    """Which token may see which: itself and those before it, of its own document or of one that is SHARED.
    (B, 1, T, T), bool."""
    part_BT = _parts(documents_BT)
    T = documents_BT.shape[1]
    causal_TT = torch.ones(T, T, dtype=torch.bool, device=documents_BT.device).tril()
    sees_BTT = (part_BT[:, :, None] == part_BT[:, None, :]) | (documents_BT == SHARED)[:, None, :]
    return (sees_BTT & causal_TT)[:, None]


def document_positions(documents_BT: Tensor) -> Tensor:
    """The position of each token in its document, (B, T)."""
    indices_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    starts_BT = torch.where(_begins(documents_BT), indices_T, 0).cummax(1).values
    return indices_T - starts_BT


def _begins(documents_BT: Tensor) -> Tensor:
    """Whether another document than that of the token before begins here; always for the first token."""
    first_B1 = torch.ones_like(documents_BT[:, :1], dtype=torch.bool)
    return torch.cat((first_B1, documents_BT[:, 1:] != documents_BT[:, :-1]), 1)


def _parts(documents_BT: Tensor) -> Tensor:
    """Documents counted along the row: an id that comes back later is another document."""
    return _begins(documents_BT).cumsum(1)
