"""How likely a model finds continuations of contexts: the sum that every multiple-choice task is made of.

Rows are padded on the right. Attention is causal, so what stands behind a row changes nothing in it, and no mask is
needed. Rows of about the same length go together.
"""

# B = sequences, T = tokens, V = vocabulary

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.evaluation.models import MeasuredModel

TOKENS_PER_BATCH = 4096
"""About 0.8 GB of logits at a vocabulary of 50,257 in fp32."""


@dataclass(frozen=True)
class Continuation:
    """What stands before, and what may follow."""

    context: tuple[int, ...]
    """Not empty: a model says nothing about a first token."""
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Likelihood:
    """Of one continuation."""

    logp: float
    """Natural logarithm of the probability of all its tokens."""
    num_tokens: int
    is_greedy: bool
    """Whether each of its tokens was the likeliest one."""


@torch.no_grad()
def likelihoods(
    model: MeasuredModel, wanted: Sequence[Continuation], *, said: Callable[[int], None] = lambda done: None
) -> list[Likelihood]:
    """The likelihood of each, in their order. `said` hears how many are done.

    What is longer than the model's positions loses the front of its context, as lm-eval does it.
    """
    found: list[Likelihood | None] = [None] * len(wanted)
    done = 0
    for group in _grouped(wanted, model.max_seq_len):
        for index, likelihood in zip(group, _of_batch(model, [wanted[i] for i in group]), strict=True):
            found[index] = likelihood
        done += len(group)
        said(done)
    return [each for each in found if each is not None]


def _grouped(wanted: Sequence[Continuation], max_seq_len: int) -> list[list[int]]:
    """Indices in groups whose padded rows have at most TOKENS_PER_BATCH tokens, or one row."""
    lengths = [min(len(each.context) + len(each.ids), max_seq_len) for each in wanted]
    groups: list[list[int]] = []
    for index in sorted(range(len(wanted)), key=lambda i: -lengths[i]):
        group = groups[-1] if groups else []
        if group and (len(group) + 1) * lengths[group[0]] <= TOKENS_PER_BATCH:
            group.append(index)
        else:
            groups.append([index])
    return groups


def _of_batch(model: MeasuredModel, batch: Sequence[Continuation]) -> list[Likelihood]:
    rows = [(*each.context, *each.ids)[-(model.max_seq_len + 1) :] for each in batch]
    width = max(len(row) for row in rows) - 1
    ids_BT = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids_BT[i, : len(row) - 1] = torch.tensor(row[:-1])
    logits_BTV = model.logits(ids_BT)
    return [_of_row(logits_BTV[i], row, len(each.ids)) for i, (row, each) in enumerate(zip(rows, batch, strict=True))]


def _of_row(logits_TV: Tensor, row: Sequence[int], num_ids: int) -> Likelihood:
    scored = min(num_ids, len(row) - 1)
    end = len(row) - 1
    logps_SV = logits_TV[end - scored : end].float().log_softmax(-1)
    ids_S = torch.tensor(row[len(row) - scored :], device=logps_SV.device)
    logp = float(logps_SV.gather(-1, ids_S[:, None]).double().sum())
    return Likelihood(logp, scored, bool((logps_SV.argmax(-1) == ids_S).all()))
