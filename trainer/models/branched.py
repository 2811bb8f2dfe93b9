"""Texts that begin alike as one row: what they share is computed once, then each goes on alone.

A pair has one prompt and two answers, a group one prompt and many. Side by side, each in a row of its own, the prompt
is computed again and again, and short texts are padded to the longest. In one row the prompt is a document that all
others see (`attention.SHARED`), and each of those counts its positions from where the prompt ends: a text computes what
it would compute alone, but for rounding.
"""

# R = texts, B = rows, T = tokens of a text, S = tokens of a row

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.models.attention import SHARED
from trainer.models.loss import IGNORE_INDEX

Ints = NDArray[np.int64]

_WIDTH = 768
"""Of a network for which the work of both ways is compared; a wider one gains more by sharing."""
_WORTH_IT = 0.9
"""Share of the work that may be left: a mask costs something too."""


@dataclass(frozen=True)
class BranchedRows:
    """B rows that hold R texts."""

    ids_BS: Tensor
    labels_BS: Tensor
    positions_BS: Tensor
    documents_BS: Tensor
    places_RT: Tensor
    """Where each token of each text stands, counted through all rows; 0 where its label does not count."""


def branched_rows(
    ids_RT: Ints, labels_RT: Ints, groups: Sequence[Sequence[int]], pad_id: int, *, always: bool = False
) -> BranchedRows | None:
    """The texts of each group in one row; None where there are none or, but for `always`, where that saves nothing.

    With `always` a text is computed in one way, whatever else is in its batch, and so rounded about alike.

    `labels_RT` is shifted and IGNORE_INDEX where nothing is learnt; what follows a text's last label is padding.
    """
    if not groups:
        return None
    counts = labels_RT != IGNORE_INDEX
    ends_R = np.where(counts.any(1), labels_RT.shape[1] - counts[:, ::-1].argmax(1), 0)
    shared = [_shared(ids_RT[list(group)], counts[list(group)]) for group in groups]
    lengths = [
        start + sum(max(0, int(ends_R[text]) - start) for text in group)
        for start, group in zip(shared, groups, strict=True)
    ]
    shape = (len(groups), max(lengths, default=0))
    texts, tokens = ids_RT.shape
    if not always and _work(*shape, shape[1]) > _WORTH_IT * _work(texts, tokens, tokens / 2):
        return None
    ids, labels = np.full(shape, pad_id, dtype=np.int64), np.full(shape, IGNORE_INDEX, dtype=np.int64)
    positions, documents = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    places = np.zeros(ids_RT.shape, dtype=np.int64)
    for row, (start, group) in enumerate(zip(shared, groups, strict=True)):
        ids[row, :start], positions[row, :start] = ids_RT[group[0], :start], np.arange(start)
        documents[row, :start], at = SHARED, start
        for number, text in enumerate(group):
            end = max(start, int(ends_R[text]))
            until = at + end - start
            ids[row, at:until], labels[row, at:until] = ids_RT[text, start:end], labels_RT[text, start:end]
            positions[row, at:until], documents[row, at:until] = np.arange(start, end), number
            places[text, start:end] = row * shape[1] + np.arange(at, until)
            at = until
        documents[row, at:] = len(group)
    return BranchedRows(*(torch.from_numpy(part) for part in (ids, labels, positions, documents, places)))


def on_device(rows: BranchedRows | None, device: torch.device) -> BranchedRows | None:
    """The same, there."""
    return rows and BranchedRows(*(getattr(rows, name).to(device) for name in BranchedRows.__dataclass_fields__))


def label_logps(
    policy: nn.Module, ids_RT: Tensor, labels_RT: Tensor, rows: BranchedRows | None, temperature: float = 1.0
) -> Tensor:
    """Log-probability of each label, (R, T), 0 where it is IGNORE_INDEX: one forward through the wrapped policy, over
    `rows` where there are such and the policy can keep documents apart."""
    if rows is None or not bare(policy).keeps_documents_apart:
        logps_RT: Tensor = policy(ids_RT, labels_RT, per_token=True, temperature=temperature).logps
        return logps_RT
    apart = {"positions_BT": rows.positions_BS, "documents_BT": rows.documents_BS}
    logps_BS: Tensor = policy(rows.ids_BS, rows.labels_BS, per_token=True, temperature=temperature, **apart).logps
    return torch.where(labels_RT != IGNORE_INDEX, logps_BS.flatten()[rows.places_RT], 0.0)


def bare(policy: nn.Module) -> nn.Module:
    """The network inside whatever wraps it."""
    for name in ("module", "_orig_mod"):  # DDP, torch.compile
        inner = policy._modules.get(name)
        if inner is not None:
            return bare(inner)
    return policy


def _shared(ids_RT: Ints, counts_RT: NDArray[np.bool_]) -> int:
    """How many first ids are the same in all texts, with no label that counts."""
    differs_T = (ids_RT != ids_RT[0]).any(0) | counts_RT.any(0)
    return int(differs_T.argmax()) if differs_T.any() else 0


def _work(rows: int, tokens: int, keys: float) -> float:
    """Of a forward, in units of its own: a token costs 24 D² in the matrices of a block and 4 D a key."""
    return rows * tokens * (6 * _WIDTH + keys)
