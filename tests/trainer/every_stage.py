"""A tiny run of every stage, on rows of very unequal length; with adapters and tools too.

As a program it is one of several processes, which make the runs together, one after the other:

python -m torch.distributed.run --standalone --nproc-per-node=2 -m tests.trainer.every_stage FOLDER OUT NAME...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.trainer.toy_task import REWARDS
from trainer.config import RunConfig, run_config
from trainer.console import Console
from trainer.loop.distributed import opened_world
from trainer.loop.engine import train
from trainer.loop.start import run_stage
from trainer.models.hf_folder import resolved
from trainer.stages import open_stage

STEPS = 5
TOOLS = "def double(letters):\n    return letters * 2\n"

SAMPLING = ("data.path={folder}/prompts.jsonl", "reward.functions=[{{use: '{folder}/rewards.py:capitals'}}]")
FOUR_STEPS_A_ROLLOUT = ("rollout.completions=16", "rollout.temperature=0.9")
PPO = (*SAMPLING, *FOUR_STEPS_A_ROLLOUT, "ppo.epochs=2", "ppo.beta=0.1", "ppo.kl=adaptive", "ppo.stop_kl=10")
PAIRS = ("data.path={folder}/pairs.jsonl",)
LORA = ("lora.rank=2", "lora.dropout=0.1")

RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sft": ("sft", ()),
    "sft-rows": ("sft", ("sft.packing=false",)),
    "sft-lora": ("sft", LORA),
    "dpo": ("dpo", PAIRS),
    "dpo-ipo": ("dpo", (*PAIRS, "dpo.loss=ipo_mean")),
    "dpo-lora": ("dpo", (*PAIRS, *LORA)),
    "orpo": ("orpo", (*PAIRS, "orpo.beta=0.5")),
    "reward": ("reward", PAIRS),
    "ppo": ("ppo", PPO),
    "ppo-lora": ("ppo", (*PPO, *LORA)),
    "grpo": ("grpo", (*SAMPLING, *FOUR_STEPS_A_ROLLOUT, "grpo.epochs=2", "grpo.group_size=4", "grpo.beta=0.1")),
    "grpo-tools": ("grpo", (*SAMPLING, "grpo.group_size=4", "rollout.max_turns=2", "grpo.loss=grpo",
                            "rollout.tools={{double: '{folder}/tools.py:double'}}")),
    "rgpo": ("rgpo", (*SAMPLING, "rgpo.beta=0.1", "rgpo.baseline_decay=0.5")),
}  # fmt: skip
"""By name: the stage, and what is laid over the settings."""
APART = ("train.micro_batch_size=1", "model.dropout=0", "lora.dropout=0")
"""How each of several processes goes through its part of a step."""


def write_rows(folder: Path) -> Path:
    """The folder, with rows for every stage and a run in `base` that answers in letters and comes to an end."""
    answers = [("aB" * 40)[: 1 + (i * i) % 23] for i in range(60)]
    files = {
        "chats": [{"instruction": f"n {i}", "output": answer} for i, answer in enumerate(answers)],
        "pairs": [{"prompt": "n" * (1 + i % 9), "chosen": answer, "rejected": answers[i - 1] + "b"}
                  for i, answer in enumerate(answers)],
        "prompts": [{"prompt": "n" * (1 + i % 9)} for i in range(60)],
    }  # fmt: skip
    for name, found in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    (folder / "rewards.py").write_text(REWARDS)
    (folder / "tools.py").write_text(TOOLS)
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 96}
    given = ("train.max_steps=20", "optim.lr=1e-2", "eval.every_steps=100", "sft.packing=false",
             "log.every_steps=20")  # fmt: skip
    base = {**settings(folder, folder / "base"), "model": shape}
    run_stage("sft", run_config(base, source="base", overrides=given))
    return folder


def settings(folder: Path, out_dir: Path) -> dict[str, Any]:
    return {
        "out_dir": str(out_dir),
        "model": {"init_from": str(folder / "base"), "dropout": 0.1},
        "data": {"path": str(folder / "chats.jsonl"), "tokenizer": {"kind": "bytes"}, "val_fraction": 0.1},
        # The limits are for a machine that is busy, not for the functions.
        "reward": {"timeout_seconds": 120.0},
        "rollout": {"max_tokens": 16, "micro_batch_size": 3, "tool_timeout_seconds": 120.0},
        "train": {
            "max_steps": STEPS,
            "global_batch_size": 8,
            "micro_batch_size": 4,
            "precision": "fp32",
            "device": "cpu",
        },
        # With a large eps the size of a gradient matters, and not its direction alone.
        "optim": {"lr": 1e-3, "eps": 1e-2, "grad_clip": 0.0, "weight_decay": 0.0},
        "schedule": {"warmup_steps": 1, "kind": "constant"},
        "checkpoint": {"every_steps": 2, "keep_last": 10},
        "eval": {"every_steps": STEPS, "num_batches": 100},  # all held-out rows, whatever a micro-batch is
        "log": {"every_steps": 1},
    }


def config_of(name: str, folder: Path, out_dir: Path, *overrides: str) -> RunConfig:
    """The configuration of a run of RUNS, with `key=value` laid over it."""
    own = [each.format(folder=folder) for each in RUNS[name][1]]
    return run_config(settings(folder, out_dir), source=name, overrides=[*own, *overrides])


def main(folder: Path, out: Path, names: list[str]) -> None:
    first = config_of(names[0], folder, out / names[0])
    with opened_world(first.train) as world:
        console = Console(world.is_first)
        for name in names:
            config = resolved(config_of(name, folder, out / name, *APART))
            world.on_first((out / name).mkdir)
            train(config, open_stage(RUNS[name][0], config, world, console), world, console)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
