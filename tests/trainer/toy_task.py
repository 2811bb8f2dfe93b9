"""The smallest thing to learn by trying: answer a prompt in capital letters, a tenth of what random weights write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.trainer.tiny import rows
from trainer.config import RunConfig, run_config

REWARDS = """\
def capitals(completion):
    return sum("A" <= letter <= "Z" for letter in completion) / 8

def equal(completion):
    return 0.5

def raises(completion):
    raise ValueError("no idea")

def no_number(completion):
    return float("nan")

def hangs(completion):
    import time
    time.sleep(3600)

def sometimes(completion):
    return None if "A" <= completion[:1] <= "m" else capitals(completion)
"""


def toy_files(folder: Path) -> Path:
    """The folder, with prompts.jsonl and rewards.py in it."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = [a + b for a in "abcdefgh" for b in "abcdefgh"]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": each}) + "\n" for each in asked))
    (folder / "rewards.py").write_text(REWARDS)
    return folder


def toy_settings(folder: Path, out_dir: Path, reward: str = "capitals") -> dict[str, Any]:
    return {
        "out_dir": str(out_dir),
        "model": {"arch": "gpt2", "d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 40, "dropout": 0.1},
        "data": {"path": str(folder / "prompts.jsonl"), "tokenizer": {"kind": "bytes"}},
        # The limit is for a machine that is busy, not for the functions.
        "reward": {"functions": [{"use": f"{folder / 'rewards.py'}:{reward}"}], "timeout_seconds": 120.0},
        "rollout": {"max_tokens": 8, "patience": 2},
        "grpo": {"group_size": 4},
        "train": {"max_steps": 4, "global_batch_size": 8, "micro_batch_size": 4, "precision": "fp32", "device": "cpu"},
        "optim": {"lr": 3e-3, "weight_decay": 0.0},
        "schedule": {"warmup_steps": 1, "kind": "constant"},
        "checkpoint": {"every_steps": 100},
        "eval": {"every_steps": 100, "num_batches": 2},
        "log": {"every_steps": 1},
    }


def toy_config(folder: Path, out_dir: Path, *overrides: str, reward: str = "capitals") -> RunConfig:
    return run_config(toy_settings(folder, out_dir, reward), source="toy", overrides=overrides)


LEARNING = (
    "model.arch=modern",
    "train.global_batch_size=32",
    "train.micro_batch_size=32",
    "train.max_steps=50",
    "optim.lr=1e-2",
    "log.every_steps=50",
)
"""Enough to learn it with room to spare: the reward is above 0.9 after about half of these steps."""


def column(out_dir: Path, name: str) -> list[float]:
    """What metrics.jsonl has under a name, step by step."""
    return [row[name] for row in rows(out_dir) if name in row]
