"""RunConfig: everything one training run is told, section by section.

The resolved form is stored in every checkpoint; on resume the two are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import gcd
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, model_validator

from trainer.config.adapters import LoraConfig
from trainer.config.data import DataConfig, saved_vocabulary, vocabulary_of
from trainer.config.hf_policy import HF
from trainer.config.initial import our_config
from trainer.config.keeping import CheckpointConfig, EvalConfig, LogConfig, SampleConfig
from trainer.config.model import ModelConfig, completed
from trainer.config.overrides import apply_overrides, with_its_overrides
from trainer.config.posttraining import DpoConfig, OrpoConfig, SftConfig
from trainer.config.presets import RunPreset, with_preset
from trainer.config.problems import ConfigError, Unfit
from trainer.config.reinforcement import GrpoConfig, PpoConfig, RewardConfig, RgpoConfig, RolloutConfig
from trainer.config.strict import Model, validated
from trainer.config.training import OptimConfig, ScheduleConfig, TrainConfig

ACCEPTED_STAGES = ("pretrain", "sft", "dpo", "orpo", "reward", "ppo", "grpo", "rgpo")
"""The stages this version can run."""


class RunConfig(Model):
    """One training run."""

    preset: RunPreset = "none"
    """A whole recipe: model, batch, optimizer and schedule that suit each other. What is written beside it wins."""
    out_dir: str = "runs/local"
    """Folder of the run: checkpoints/, data/ and metrics.jsonl. The launcher sets it on a host."""
    seed: NonNegativeInt = 1337
    """Initial weights, data order and dropout."""
    resume: Literal["auto", "never", "must"] = "auto"
    """`auto` goes on from the newest whole checkpoint in out_dir if there is one."""
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    data: DataConfig = DataConfig()
    sft: SftConfig = SftConfig()
    dpo: DpoConfig = DpoConfig()
    orpo: OrpoConfig = OrpoConfig()
    reward: RewardConfig = RewardConfig()
    rollout: RolloutConfig = RolloutConfig()
    grpo: GrpoConfig = GrpoConfig()
    rgpo: RgpoConfig = RgpoConfig()
    ppo: PpoConfig = PpoConfig()
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    sample: SampleConfig = SampleConfig()
    log: LogConfig = LogConfig()

    @property
    def seq_len(self) -> int:
        """Tokens in a training row."""
        return self.data.seq_len or self.model.max_seq_len

    @model_validator(mode="before")
    @classmethod
    def _vocabulary_of_the_tokenizer(cls, config: Any) -> Any:
        """Fills data.tokenizer from a checkpoint that model.init_from names, and model.vocab_size from data.tokenizer.

        Sections of a wrong shape are left to their own validators.
        """
        if not isinstance(config, Mapping):
            return config
        config = _with_tokenizer_of_init_from(with_preset(config))
        data, model = config.get("data", {}), completed(config.get("model", {}))
        tokenizer = data.get("tokenizer", {}) if isinstance(data, Mapping) else None
        if isinstance(model, Mapping) and isinstance(tokenizer, Mapping) and "vocab_size" not in model:
            size = vocabulary_of(tokenizer)
            return {**config, "model": {**model, "vocab_size": size}} if size is not None else config
        return config

    @model_validator(mode="after")
    def _sections_fit_together(self) -> RunConfig:
        if self.model.vocab_size < self.data.tokenizer.vocab_size and self.model.is_known:
            begun = self.model.init_from
            raise Unfit(
                f"model.vocab_size {self.model.vocab_size} is smaller than the vocabulary of the "
                f"`{self.data.tokenizer.kind}` tokenizer, {self.data.tokenizer.vocab_size}",
                why=f"the tokenizer is of another model than `{begun}`" if begun else "each of its ids needs a row",
                hint="leave `data.tokenizer` out, the model's own is taken"
                if begun
                else "leave `model.vocab_size` out",
            )
        if self.lora.rank and not self.model.init_from:
            raise Unfit(
                "lora.rank: adapters stand beside weights that are there",
                why="`model.init_from` is empty",
                hint="model.init_from=RUN_OR_CHECKPOINT, or hf:OWNER/NAME",
            )
        if self.lora.quantize != "none":
            self._require_quantizable()
        if self.lora.rank and self.train.parallel == "fsdp":
            raise Unfit(
                "lora.rank: adapters are trained with train.parallel `ddp`, not `fsdp`",
                why="what learns is small, and the frozen base is not spread",
                hint="train.parallel=ddp",
            )
        if self.seq_len > self.model.max_seq_len and self.model.is_known:
            raise Unfit(
                f"data.seq_len {self.seq_len} is longer than the positions of the model, "
                f"model.max_seq_len {self.model.max_seq_len}",
                why="a token beyond them has no position",
                hint=f"data.seq_len={self.model.max_seq_len}"
                + ("" if self.model.init_from else f", or model.max_seq_len={self.seq_len}"),
            )
        if self.train.global_batch_size % self.train.micro_batch_size:
            raise Unfit(
                f"train.global_batch_size {self.train.global_batch_size} is not a multiple of "
                f"train.micro_batch_size {self.train.micro_batch_size}",
                why="a step is made of whole micro-batches",
                hint=f"train.micro_batch_size={gcd(self.train.global_batch_size, self.train.micro_batch_size)}",
            )
        if self.schedule.warmup_steps >= self.train.max_steps:
            raise Unfit(
                f"schedule.warmup_steps {self.schedule.warmup_steps} leaves nothing of "
                f"train.max_steps {self.train.max_steps}",
                why="the learning rate would only rise",
                hint=f"schedule.warmup_steps={self.train.max_steps // 10}, or a longer run",
            )
        return self

    def _require_quantizable(self) -> None:
        if not self.lora.rank:
            raise ValueError("lora.quantize: weights in 4 bits are frozen, so adapters must learn: give lora.rank")
        if not self.model.init_from.startswith(HF):
            raise ValueError(
                f"lora.quantize `{self.lora.quantize}` is for policies of transformers: model.init_from `hf:OWNER/NAME`"
            )
        if self.model.backend != "transformers":
            raise ValueError(f"lora.quantize does not go with model.backend `{self.model.backend}`")


def _with_tokenizer_of_init_from(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Whoever goes on from a checkpoint of ours and names no tokenizer means the checkpoint's own."""
    data, model = config.get("data", {}), config.get("model", {})
    source = model.get("init_from") if isinstance(model, Mapping) else None
    if not isinstance(data, Mapping) or "tokenizer" in data or not isinstance(source, str) or not source:
        return config
    if source.startswith(HF):
        folder = source.removeprefix(HF)
        known = saved_vocabulary(folder) is not None
        return {**config, "data": {**data, "tokenizer": {"path": folder}}} if known else config
    ours = our_config(Path(source).expanduser())
    return {**config, "data": {**data, "tokenizer": {"path": str(ours.parent / "tokenizer")}}} if ours else config


def run_config(config: Any, *, source: str, at: str = "", overrides: Iterable[str] = ()) -> RunConfig:
    """The RunConfig that `config` (a mapping, or None for all defaults) and `overrides` describe.

    Raises ConfigError that names `source`, the path below `at`, the value and what is allowed.
    """
    mapping = {} if config is None else config
    overrides = tuple(overrides)
    if overrides and isinstance(mapping, Mapping):
        mapping = apply_overrides(mapping, overrides)
    try:
        return validated(RunConfig, mapping, source=source, at=at)
    except ConfigError as error:
        problems = [with_its_overrides(problem, at, overrides) for problem in error.problems]
        raise ConfigError(problems, why=error.why, hint=error.hint) from error
