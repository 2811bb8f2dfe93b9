"""What the stages after pretraining are told, as a configuration says it."""

from __future__ import annotations

from typing import Literal

from trainer.config.strict import Model


class SftConfig(Model):
    """Supervised fine-tuning on conversations."""

    train_on: Literal["assistant", "all"] = "assistant"
    """Learn the assistant's turns alone, or every turn."""
    packing: bool = True
    """Put several conversations into one row; none sees another, and the loss stays the same."""
