"""A reward model as a judge of completions: one that the stage `reward` trained, asked about whole rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from trainer.config import RunConfig
from trainer.errors import DataError
from trainer.loop.distributed import World
from trainer.quoting import shown
from trainer.rollouts.rows import RolloutRow
from trainer.stages.reward import open_reward_model, scores
from trainer.tokenizer import Tokenizer


class RewardModel:
    """Scores rows by their ids; it reads the policy's own tokens."""

    def __init__(self, path: str, tokenizer: Tokenizer, config: RunConfig, world: World) -> None:
        """Raises CheckpointError and DataError."""
        self._model, theirs = open_reward_model(Path(path).expanduser(), world.device)
        self._eot_id, self._micro = tokenizer.eot_id, config.train.micro_batch_size
        if theirs.identity != tokenizer.identity:
            raise DataError(
                f"the reward model {shown(path)} has another tokenizer than the policy",
                why="the same ids mean other text",
                hint="train it from the policy's own checkpoint: `python -m trainer reward model.init_from=...`",
            )
        if self._model.config.max_seq_len < config.seq_len:
            raise DataError(
                f"the reward model {shown(path)} has fewer positions than the rows",
                why=f"{self._model.config.max_seq_len} and {config.seq_len}",
                hint=f"data.seq_len={self._model.config.max_seq_len}",
            )

    @torch.no_grad()
    def scores(self, rows: Sequence[RolloutRow]) -> list[float]:
        """Of each row, read where it was read in training: at the last token before the end of the text."""
        found: list[float] = []
        for first in range(0, len(rows), self._micro):
            part = rows[first : first + self._micro]
            ids_BT = torch.zeros(len(part), max(len(row.ids) for row in part), dtype=torch.int64)
            for place, row in enumerate(part):
                ids_BT[place, : len(row.ids)] = torch.from_numpy(row.ids.astype("int64"))
            last_B = torch.tensor([len(row.ids) - 1 - int(row.ids[-1] == self._eot_id) for row in part])
            device = next(self._model.parameters()).device
            found += scores(self._model, ids_BT.to(device), last_B.to(device)).tolist()
        return found
