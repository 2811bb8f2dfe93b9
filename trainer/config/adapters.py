"""Low-rank adapters on a frozen policy, as a configuration says them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat

from trainer.config.strict import Model, Strings


class LoraConfig(Model):
    """LoRA by PEFT: the weights of `model.init_from` stay as they are, small matrices beside them learn."""

    rank: NonNegativeInt = 0
    """Columns of the small matrices; 0 trains the whole policy."""
    alpha: PositiveFloat | None = None
    """What they add is scaled by alpha / rank. Left out: twice the rank."""
    targets: Strings = ()
    """Ends of the names of the linear layers that get adapters: `[q_proj, v_proj]`. Left out: all but the head."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout of what goes into the adapters."""
    quantize: Literal["none", "4bit"] = "none"
    """`4bit` keeps the frozen matrices of an `hf:` policy in 4 bits (QLoRA): needs bitsandbytes and a GPU."""

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return (self.alpha or 2 * self.rank) / self.rank
