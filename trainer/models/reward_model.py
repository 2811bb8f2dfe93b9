"""A reward model that was trained here: a policy with a scalar head, read at one place of a row.

The stage `reward` trains it, and whoever has its checkpoint asks it. Its head is the value head of PPO.
"""

# B = rows, T = tokens

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.checkpoints.checkpoint import read_config, read_state
from trainer.config import ModelConfig, validated
from trainer.errors import CheckpointError
from trainer.models.build import build_model
from trainer.models.init_from import whole_weights
from trainer.models.language_model import LanguageModel
from trainer.models.loss import IGNORE_INDEX
from trainer.models.policies import find_checkpoint
from trainer.models.value_head import add_value_head
from trainer.quoting import shown
from trainer.tokenizer import Tokenizer, load_tokenizer

STAGE = "reward"
"""Of which a checkpoint must be."""


def scores(policy: nn.Module, ids_BT: Tensor, last_B: Tensor) -> Tensor:
    """The head's number at one place of each row, (B,) in fp32; one forward through the wrapped policy."""
    nothing_BT = torch.full_like(ids_BT, IGNORE_INDEX)
    output = policy(ids_BT, nothing_BT, per_token=True)
    scores_B: Tensor = output.values.gather(1, last_B[:, None]).squeeze(1)
    # DDP waits for every parameter that learns: a head of its own, which no score needs, gets a zero.
    connected_B: Tensor = scores_B + 0 * output.logps.sum()
    return connected_B


def open_reward_model(path: Path, device: torch.device) -> tuple[LanguageModel, Tokenizer]:
    """A checkpoint (or a run's newest one) of the stage `reward`, to be asked with `scores`. Raises CheckpointError."""
    checkpoint = find_checkpoint(path)
    if (stage := read_state(checkpoint).stage) != STAGE:
        raise CheckpointError(
            f"{shown(checkpoint)} is no reward model",
            why=f"it is of the stage `{stage}`",
            hint="python -m trainer reward model.init_from=RUN data.path=PAIRS",
        )
    section = read_config(checkpoint)["model"]
    model = build_model(validated(ModelConfig, section, source=str(checkpoint / "config.yaml"), at="model"))
    add_value_head(model)
    model.load_state_dict(whole_weights(checkpoint, heads=True))
    return model.to(device).eval(), load_tokenizer(checkpoint / "tokenizer")
