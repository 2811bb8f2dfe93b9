"""What the stages after pretraining are told, as a configuration says it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from trainer.config.strict import Model


class SftConfig(Model):
    """Supervised fine-tuning on conversations."""

    train_on: Literal["assistant", "all"] = "assistant"
    """Learn the assistant's turns alone, or every turn."""
    packing: bool = True
    """Put several conversations into one row; none sees another, and the loss stays the same."""
    template: Literal["auto", "tagged", "transcript", "hub"] = "auto"
    """How conversations and pairs are written down: `tagged` or `transcript` as the tokenizer allows, or `hub`: the
    chat template of transformers that the policy brings, which must mark the assistant's words."""


class DpoConfig(Model):
    """Direct preference optimisation on pairs."""

    loss: Literal["sigmoid", "hinge", "ipo_sum", "ipo_mean"] = "sigmoid"
    """`sigmoid` is DPO's own; `ipo_sum` and `ipo_mean` take IPO on sums or means of token log-probabilities."""
    beta: PositiveFloat = 0.1
    """How closely the policy stays with the reference, which is where it began: `model.init_from`."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=0.5)
    """With `sigmoid`: share of the pairs taken to be the wrong way round (conservative DPO)."""

    @model_validator(mode="after")
    def _smoothing_has_a_meaning(self) -> DpoConfig:
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(f"label_smoothing goes with loss `sigmoid`, not with `{self.loss}`")
        return self


class OrpoConfig(Model):
    """Odds-ratio preference optimisation on pairs: no reference."""

    beta: PositiveFloat = 0.1
    """Weight of the odds-ratio term beside the SFT term."""
