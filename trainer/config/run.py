"""RunConfig: everything one training run is told, section by section.

The resolved form is stored in every checkpoint; on resume the two are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from trainer.config.overrides import apply_overrides
from trainer.config.strict import Model, validated

ACCEPTED_STAGES = ("pretrain",)
"""The stages this version can run."""

PRESETS: dict[str, dict[str, int]] = {
    # Radford et al. 2019, table 2; the head counts are those of the published checkpoints.
    "gpt2": {"d_model": 768, "n_layers": 12, "n_heads": 12},
    "gpt2-medium": {"d_model": 1024, "n_layers": 24, "n_heads": 16},
    "gpt2-large": {"d_model": 1280, "n_layers": 36, "n_heads": 20},
    "gpt2-xl": {"d_model": 1600, "n_layers": 48, "n_heads": 25},
}

Vocabularies = {"bytes": 257, "gpt2": 50257}
"""Sizes of the tokenizers whose vocabulary is fixed, end-of-text included."""


class ModelConfig(Model):
    """A GPT-2: learned positions, tanh GELU, pre-norm, tied head. A preset, a size of your own, or both."""

    preset: Literal["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "none"] = "none"
    """Fills d_model, n_layers and n_heads; what is written beside it wins."""
    d_model: PositiveInt = 256
    """Width of the residual stream. Must be a multiple of n_heads."""
    n_layers: PositiveInt = 4
    """Number of blocks."""
    n_heads: PositiveInt = 4
    """Attention heads per block."""
    max_seq_len: PositiveInt = 1024
    """Positions the model has; training rows are this long."""
    vocab_size: PositiveInt = 50257
    """Rows of the embedding. Left out, it is the tokenizer's; a larger value (50304) pads."""
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout of embeddings, attention and residuals. GPT-2 trained with 0.1."""
    bias: bool = True
    """Biases in linear layers and LayerNorms. GPT-2 has them."""

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, section: Any) -> Any:
        if isinstance(section, Mapping) and section.get("preset") in PRESETS:
            return {**PRESETS[section["preset"]], **section}
        return section

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of n_heads {self.n_heads}")
        return self


class TokenizerConfig(Model):
    """How text becomes ids."""

    kind: Literal["bytes", "gpt2", "bpe"] = "gpt2"
    """`bytes` needs nothing; `gpt2` is tiktoken's; `bpe` is trained on the corpus when it is prepared."""
    vocab_size: PositiveInt = Field(50257, ge=257)
    """Vocabulary of a `bpe` tokenizer, end-of-text included. Fixed for the other kinds."""

    @model_validator(mode="before")
    @classmethod
    def _fixed_vocabulary(cls, section: Any) -> Any:
        if not isinstance(section, Mapping):
            return section
        kind = section.get("kind", "gpt2")
        fixed = Vocabularies.get(kind) if isinstance(kind, str) else None
        if fixed is None:
            return {"vocab_size": 8192, **section}
        if section.get("vocab_size", fixed) != fixed:
            raise ValueError(f"the `{kind}` tokenizer has {fixed} tokens; leave vocab_size out or choose kind `bpe`")
        return {**section, "vocab_size": fixed}


class DataConfig(Model):
    """Where the text comes from."""

    path: str = "sample"
    """A file or folder of .txt, .md, .jsonl or .parquet, a folder of prepared shards, or `sample`: the plays that
    ship with the trainer. Relative paths start at the folder the trainer runs in, on a host the uploaded code."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Must be the one the shards were made with; checked by hash."""
    text_column: str = "text"
    """The field of .jsonl and .parquet rows that holds the text."""
    val_fraction: float = Field(0.1, gt=0.0, lt=1.0)
    """Share of the tokens, taken from the end of the corpus, kept for validation."""


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


class CheckpointConfig(Model):
    """When a checkpoint is written, and which are kept on the host."""

    every_steps: PositiveInt = 250
    """A checkpoint is also written after the last step and on SIGTERM."""
    keep_last: PositiveInt = Field(3, ge=2)
    """Newest checkpoints kept. At least 2: the newest may be the one that turns out broken."""
    keep_best: bool = True
    """Also keep the one with the lowest validation loss."""


class EvalConfig(Model):
    """Validation during training."""

    every_steps: PositiveInt = 250
    num_batches: PositiveInt = 16
    """Micro-batches per evaluation over all GPUs, always the same ones."""


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


class LogConfig(Model):
    """What is said while training."""

    every_steps: PositiveInt = 10
    """Steps per console line and per row of metrics.jsonl."""


class RunConfig(Model):
    """One training run."""

    out_dir: str = "runs/local"
    """Folder of the run: checkpoints/, data/ and metrics.jsonl. The launcher sets it on a host."""
    seed: NonNegativeInt = 1337
    """Initial weights, data order and dropout."""
    resume: Literal["auto", "never", "must"] = "auto"
    """`auto` goes on from the newest whole checkpoint in out_dir if there is one."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    sample: SampleConfig = SampleConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="before")
    @classmethod
    def _vocabulary_of_the_tokenizer(cls, config: Any) -> Any:
        """Fills model.vocab_size from data.tokenizer; sections of a wrong shape are left to their own validators."""
        if not isinstance(config, Mapping):
            return config
        data, model = config.get("data", {}), config.get("model", {})
        tokenizer = data.get("tokenizer", {}) if isinstance(data, Mapping) else None
        if isinstance(model, Mapping) and isinstance(tokenizer, Mapping) and "vocab_size" not in model:
            kind = tokenizer.get("kind", "gpt2")
            fixed = Vocabularies.get(kind) if isinstance(kind, str) else None
            return {**config, "model": {**model, "vocab_size": fixed or tokenizer.get("vocab_size", 8192)}}
        return config

    @model_validator(mode="after")
    def _sections_fit_together(self) -> RunConfig:
        if self.model.vocab_size < self.data.tokenizer.vocab_size:
            raise ValueError(
                f"model.vocab_size {self.model.vocab_size} is smaller than the vocabulary of the "
                f"`{self.data.tokenizer.kind}` tokenizer, {self.data.tokenizer.vocab_size}"
            )
        if self.train.global_batch_size % self.train.micro_batch_size:
            raise ValueError(
                f"train.global_batch_size {self.train.global_batch_size} is not a multiple of "
                f"train.micro_batch_size {self.train.micro_batch_size}"
            )
        if self.schedule.warmup_steps >= self.train.max_steps:
            raise ValueError(
                f"schedule.warmup_steps {self.schedule.warmup_steps} leaves nothing of "
                f"train.max_steps {self.train.max_steps}"
            )
        return self


def run_config(config: Any, *, source: str, at: str = "", overrides: Iterable[str] = ()) -> RunConfig:
    """The RunConfig that `config` (a mapping, or None for all defaults) and `overrides` describe.

    Raises ConfigError that names `source`, the path below `at`, the value and what is allowed.
    """
    mapping = {} if config is None else config
    overrides = tuple(overrides)
    if overrides and isinstance(mapping, Mapping):
        mapping = apply_overrides(mapping, overrides)
        source = f"{source} with {' '.join(overrides)}"
    return validated(RunConfig, mapping, source=source, at=at)
