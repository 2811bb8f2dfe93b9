"""Whole recipes by name: a model with the batch, the optimizer and the schedule that suit it, and where they come from.

What a configuration says itself wins over its preset. A recipe says nothing about where data lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

RunPreset = Literal[
    "shakespeare-char",
    "shakespeare-char-gpt2",
    "gpt2-124m",
    "gpt2-350m",
    "gpt2-774m",
    "gpt2-1558m",
    "modern-124m",
    "none",
]


def _gpt2(size: str, lr: float, global_batch_size: int, micro_batch_size: int) -> dict[str, Any]:
    """Brown et al. 2020, table 2.1, for rates and batches by size; appendix B for betas, clip and decay."""
    return {
        "model": {"preset": size},
        "train": {
            "global_batch_size": global_batch_size,
            "micro_batch_size": micro_batch_size,
            "max_steps": 20000,
        },
        "optim": {"lr": lr, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "grad_clip": 1.0},
        "schedule": {"kind": "cosine", "warmup_steps": 700, "min_lr_ratio": 0.1},
    }


_TINY = {"d_model": 128, "n_layers": 4, "n_heads": 4, "max_seq_len": 64}

RUN_PRESETS: dict[str, dict[str, Any]] = {
    # Found here by trying one setting at a time on tinyshakespeare (docs/models.md has the table): the loss of
    # `shakespeare-char-gpt2` in a seventh of its steps. 230 steps reach 1.88 with two seeds of three, 280 with the
    # fourth too.
    "shakespeare-char": {
        "data": {"tokenizer": {"kind": "bytes"}},
        "model": {"arch": "modern", "tied_head": False, "rope_base": 100.0, **_TINY},
        "train": {"max_steps": 280, "global_batch_size": 12, "micro_batch_size": 12},
        "optim": {
            "kind": "muon",
            "lr": 0.01,
            "matrix_lr": 0.035,
            "momentum": 0.9,
            "ns_steps": 3,
            "grad_clip": 0.0,
        },
        "schedule": {"kind": "linear", "warmup_steps": 5, "min_lr_ratio": 0.0},
        "checkpoint": {"every_steps": 280},
        "eval": {"every_steps": 280, "num_batches": 146},
    },
    # nanoGPT, README, "I only have a macbook": the published CPU recipe, validation loss 1.88.
    "shakespeare-char-gpt2": {
        "data": {"tokenizer": {"kind": "bytes"}},
        "model": {"bias": False, **_TINY},
        "train": {"max_steps": 2000, "global_batch_size": 12, "micro_batch_size": 12},
        "optim": {"lr": 1e-3, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.99, "grad_clip": 1.0},
        "schedule": {"kind": "cosine", "warmup_steps": 100, "min_lr_ratio": 0.1},
    },
    "gpt2-124m": _gpt2("gpt2", 6e-4, 512, 16),
    "gpt2-350m": _gpt2("gpt2-medium", 3e-4, 512, 8),
    "gpt2-774m": _gpt2("gpt2-large", 2.5e-4, 512, 4),
    "gpt2-1558m": _gpt2("gpt2-xl", 2e-4, 1024, 4),
    # UNTUNED here. Rates and betas are the defaults of `setup_optimizer` in nanochat/gpt.py (github.com/karpathy/
    # nanochat, as published in 2025): head 0.004, embedding 0.2, matrices 0.02, no decay, Adam 0.8 and 0.95; 2^19
    # tokens a step. The embedding's is a tenth of it, as ours begins at 0.1 instead of 1: a guess. The fall over the
    # last two fifths is from memory. nanochat has since moved to 0.008, 0.3, a decay of 0.28 and a fall over the last
    # 65 %, for a network with more in it than this one.
    "modern-124m": {
        "model": {"preset": "modern-124m", "tied_head": False},
        "train": {"max_steps": 20000, "global_batch_size": 512, "micro_batch_size": 16},
        "optim": {
            "kind": "muon",
            "lr": 0.004,
            "matrix_lr": 0.02,
            "embedding_lr": 0.02,
            "head_lr": 0.004,
            "beta1": 0.8,
            "beta2": 0.95,
            "grad_clip": 0.0,
        },
        "schedule": {"kind": "wsd", "warmup_steps": 100, "decay_fraction": 0.4, "min_lr_ratio": 0.0},
    },
}


def with_preset(config: Any) -> Any:
    """`config` laid over the preset it names, section by section; what is no mapping is left to its validator."""
    preset = config.get("preset") if isinstance(config, Mapping) else None
    return _merged(RUN_PRESETS[preset], config) if isinstance(preset, str) and preset in RUN_PRESETS else config


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: _merged(under[key], value) if _nests(under.get(key), value) else value for key, value in over.items()}
    return {**under, **both}


def _nests(under: Any, over: Any) -> bool:
    return isinstance(under, Mapping) and isinstance(over, Mapping)
