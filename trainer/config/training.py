"""The loop, the optimizer and its schedule, as a configuration says them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from trainer.config.strict import Model


class TrainConfig(Model):
    """The loop."""

    max_steps: PositiveInt = 1000
    """Optimizer steps in the whole run."""
    global_batch_size: PositiveInt = 32
    """Sequences per optimizer step over all GPUs; it does not change with their number."""
    micro_batch_size: PositiveInt = 8
    """Sequences per forward on one GPU. Gradient accumulation makes up the rest."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 where the hardware computes in it, else fp16 with a loss scaler on GPUs, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: CUDA where there is one."""
    compile: bool = False
    """torch.compile the model: slower to start, faster per step."""


class OptimConfig(Model):
    """AdamW with decoupled decay on matrices only."""

    lr: PositiveFloat = 6e-4
    """Peak learning rate."""
    weight_decay: float = Field(0.1, ge=0.0)
    """Decay of parameters with two dimensions or more; biases and norms have none."""
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    beta2: float = Field(0.95, ge=0.0, lt=1.0)
    eps: PositiveFloat = 1e-8
    grad_clip: float = Field(1.0, ge=0.0)
    """Largest global gradient norm; 0 switches clipping off."""


class ScheduleConfig(Model):
    """Learning rate as a pure function of the step."""

    kind: Literal["cosine", "constant"] = "cosine"
    """`cosine` decays over the whole run, `constant` stays at the peak after the warmup."""
    warmup_steps: NonNegativeInt = 100
    """Steps of linear warmup."""
    min_lr_ratio: float = Field(0.1, ge=0.0, le=1.0)
    """Final learning rate as a share of the peak."""
