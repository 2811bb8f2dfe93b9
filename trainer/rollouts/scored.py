"""Log-probabilities, and values where there is a value head, of rows under a model as it is; no gradients."""

# B = rows, T = tokens

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from trainer.models.branched import bare, label_logps
from trainer.rollouts.rows import Floats, PaddedRows, RolloutRow, padded_rows

TokenScores = tuple[Floats, Floats | None]
"""Of one row: log-probabilities, and values."""


@torch.no_grad()
def token_logps(
    model: nn.Module, rows: Sequence[RolloutRow], *, temperature: float, pad_id: int, micro_batch_size: int
) -> list[TokenScores]:
    """Of each row the log-probability of each token that was sampled (0 elsewhere), and the value before it."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()  # no dropout
    found: list[TokenScores] = []
    for first in range(0, len(rows), micro_batch_size):
        part = rows[first : first + micro_batch_size]
        padded = padded_rows(part, pad_id, device)
        logps, values = _scores(model, padded, temperature)
        for place, row in enumerate(part):
            end = len(row.ids) - 1
            found.append((logps[place, :end].copy(), None if values is None else values[place, :end].copy()))
    model.train(was_training)
    return found


def _scores(model: nn.Module, rows: PaddedRows, temperature: float) -> tuple[Floats, Floats | None]:
    if bare(model).value_head is None:  # as the loss computes them: the ratio of the two begins at 1
        return label_logps(model, rows.ids_BT, rows.labels_BT, rows.branched, temperature).float().cpu().numpy(), None
    output = model(rows.ids_BT, rows.labels_BT, per_token=True, temperature=temperature)
    return output.logps.float().cpu().numpy(), output.values.float().cpu().numpy()
