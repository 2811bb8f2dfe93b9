"""What a run keeps and shows: checkpoints, validation, samples, lines of log, as a configuration says them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from trainer.config.strict import Model


class CheckpointConfig(Model):
    """When a checkpoint is written, and which are kept on the host."""

    every_steps: PositiveInt = 250
    """A checkpoint is also written after the last step and on SIGTERM."""
    keep_last: PositiveInt = Field(3, ge=2)
    """Newest checkpoints kept. At least 2: the newest may be the one that turns out broken."""
    keep_best: bool = True
    """Also keep the one with the lowest validation loss."""
    keep_every_steps: NonNegativeInt = 0
    """Also keep every one whose step is a multiple of this, for good; 0 keeps none so."""
    sharded: bool = True
    """With `train.parallel=fsdp` and several processes: each writes its own part of the tensors. Otherwise rank 0 puts
    them together and writes them alone. Any number of processes goes on from either."""


class EvalConfig(Model):
    """Validation during training."""

    every_steps: PositiveInt = 250
    num_batches: PositiveInt = 16
    """Micro-batches per evaluation over all GPUs, always the same ones."""
    patience: NonNegativeInt = 0
    """End the run early after so many evaluations in a row without a lower loss; 0 never does."""


class SampleConfig(Model):
    """Text sampled while training, to look at."""

    every_steps: NonNegativeInt = 0
    """0 switches sampling off."""
    prompt: str = "\n"
    max_tokens: PositiveInt = 100
    temperature: float = Field(0.8, ge=0.0)
    """0 takes the likeliest token."""
    top_k: NonNegativeInt = 50
    """0 switches the limit off."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    seed: NonNegativeInt = 1337


TrackerName = Literal["tensorboard", "wandb", "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "trackio"]


class LogConfig(Model):
    """What is said while training, and to whom."""

    every_steps: PositiveInt = 10
    """Steps per console line and per row of metrics.jsonl."""
    trackers: Annotated[tuple[TrackerName, ...], Field(strict=False)] = ()
    """Services and formats that get every row as well: tensorboard, wandb, or one of aim, clearml, comet_ml, dvclive,
    mlflow, swanlab, trackio. Each needs its package; WANDB_MODE=offline needs no account."""
    project: str = Field("gptops", min_length=1)
    """Name under which a tracker groups runs."""
    file: bool = True
    """Also write what is said to out_dir/console.log, each line with its time; not where the launcher keeps the log."""
