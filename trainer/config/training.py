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
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes share the work: `ddp` gives each a whole model; `fsdp` gives each a part of the weights,
    gradients and moments, for models that do not fit on one GPU."""
    activation_checkpointing: bool = False
    """Keep only the input of each block and compute the rest again in the backward: less memory, a third more work."""
    max_skipped_steps: PositiveInt = 5
    """A step whose loss or gradient is not finite is skipped; so many in a row end the run."""
    peer_timeout_seconds: int = Field(15, ge=5)
    """On several nodes: one that has not been heard of for so long is lost, which ends the processes of all others."""


class OptimConfig(Model):
    """How gradients become steps."""

    kind: Literal["adamw", "muon"] = "adamw"
    """`adamw`: all parameters. `muon`: Muon for the matrices of the blocks, AdamW for the rest."""
    lr: PositiveFloat = 6e-4
    """Peak learning rate."""
    weight_decay: float = Field(0.1, ge=0.0)
    """AdamW's decay of parameters with two dimensions or more; biases and norms have none. Not used by `muon`."""
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    beta2: float = Field(0.95, ge=0.0, lt=1.0)
    eps: PositiveFloat = 1e-8
    grad_clip: float = Field(1.0, ge=0.0)
    """Largest global gradient norm; 0 switches clipping off."""
    matrix_lr: PositiveFloat = 0.02
    """`muon`: peak learning rate of the matrices. Updates have singular values of one: it hardly depends on size."""
    matrix_weight_decay: float = Field(0.0, ge=0.0)
    """`muon`: decoupled decay of the matrices, per unit of matrix_lr."""
    momentum: float = Field(0.95, ge=0.0, lt=1.0)
    """`muon`: Nesterov momentum of the matrices."""
    ns_steps: PositiveInt = 5
    """`muon`: steps of the iteration that makes an update orthogonal. 3 are enough for small models."""
    embedding_lr: PositiveFloat | None = None
    """`muon`: peak learning rate of the embeddings; left out, it is `lr`."""
    head_lr: PositiveFloat | None = None
    """`muon`: peak learning rate of a head of its own; left out, it is `lr`."""


class ScheduleConfig(Model):
    """Learning rate as a pure function of the step."""

    kind: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """After the warmup, `cosine` and `linear` fall over the whole run, `wsd` stays at the peak and falls in the last
    `decay_fraction` of the run, `constant` stays at the peak."""
    warmup_steps: NonNegativeInt = 100
    """Steps of linear warmup."""
    min_lr_ratio: float = Field(0.1, ge=0.0, le=1.0)
    """Final learning rate as a share of the peak."""
    decay_fraction: float = Field(0.2, gt=0.0, le=1.0)
    """`wsd`: share of the run's steps, at its end, in which the rate falls."""
