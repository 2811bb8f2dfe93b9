"""What a run is told to do, typed and checked before anything is touched.

A doorway module: no torch here, so the launcher refuses a bad training
configuration on the laptop, with the same words the host would have used.

    text or file ── yaml.parse ──▶ mapping ── overrides.apply ──▶ mapping ── run_config ──▶ RunConfig
"""

from trainer.config.adapters import LoraConfig
from trainer.config.data import DataConfig, TokenizerConfig
from trainer.config.keeping import CheckpointConfig, EvalConfig, LogConfig, SampleConfig
from trainer.config.model import ModelConfig
from trainer.config.overrides import apply_overrides
from trainer.config.problems import ConfigError, Problem, did_you_mean
from trainer.config.run import ACCEPTED_STAGES, RunConfig, run_config
from trainer.config.strict import Model, Strings, validated
from trainer.config.training import OptimConfig, ScheduleConfig, TrainConfig
from trainer.config.yaml import dump_yaml, load_yaml, parse_yaml

__all__ = [
    "ACCEPTED_STAGES",
    "CheckpointConfig",
    "ConfigError",
    "DataConfig",
    "EvalConfig",
    "LogConfig",
    "LoraConfig",
    "Model",
    "ModelConfig",
    "OptimConfig",
    "Problem",
    "RunConfig",
    "SampleConfig",
    "ScheduleConfig",
    "Strings",
    "TokenizerConfig",
    "TrainConfig",
    "apply_overrides",
    "did_you_mean",
    "dump_yaml",
    "load_yaml",
    "parse_yaml",
    "run_config",
    "validated",
]
