"""What both sides of post_training.py train on: the same weights, the same ids, the same batch in every step.

Rows are random letters, a token each. Pairs are as long as those of HH-RLHF (harmless) in GPT-2's tokens, at four
even places of its distribution; conversations are as long as short and long ones of Alpaca; prompts as those pairs'.
"""

from __future__ import annotations

import json
import random
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REWARD = "rewards.py:letters"
_REWARDS = """\
def letters(completion):
    return sum(letter.isalpha() for letter in completion) / max(1, len(completion))
"""


@dataclass(frozen=True)
class Size:
    """A GPT-2."""

    d_model: int
    layers: int
    heads: int
    vocabulary: int


SIZES = {"tiny": Size(64, 2, 2, 512), "124M": Size(768, 12, 12, 50257)}
PAIRS = ((20, 13, 15), (50, 22, 28), (92, 32, 40), (165, 61, 70))
"""Tokens of the prompt, of the chosen and of the rejected answer."""
CONVERSATIONS = ((110, 140), (70, 80), (40, 60), (24, 40), (28, 60), (40, 50))
"""Tokens of the instruction and of the answer."""
PROMPTS, GROUP, COMPLETION = (50, 92), 8, 48
SEQ_LEN = 256


def prepare(folder: Path, sizes: tuple[str, ...]) -> None:
    """Write rows, the reward function and random weights of each size."""
    drawn = random.Random(1337)

    def row(**lengths: int) -> dict[str, str]:
        return {name: "".join(drawn.choices(string.ascii_lowercase, k=length)) for name, length in lengths.items()}

    pairs = [row(prompt=prompt, chosen=chosen, rejected=rejected) for prompt, chosen, rejected in PAIRS]
    chats = [row(instruction=instruction, output=output) for instruction, output in CONVERSATIONS]
    prompts = [row(prompt=prompt) for prompt in PROMPTS]
    for name, rows in (("dpo", pairs), ("sft", chats), ("grpo", prompts)):
        rows = [*rows, rows[0]]  # the last one validates, which is never asked for
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rewards.py").write_text(_REWARDS)
    for size in sizes:
        _save_weights(folder / size, SIZES[size])


def _save_weights(folder: Path, size: Size) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1337)
    shape = {"n_embd": size.d_model, "n_layer": size.layers, "n_head": size.heads, "vocab_size": size.vocabulary}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    GPT2LMHeadModel(GPT2Config(**shape, **off, bos_token_id=256, eos_token_id=256)).save_pretrained(folder)


def settings(case: str, side: str, size: str, folder: Path, precision: str) -> dict[str, Any]:
    """The configuration of our side, from which the other takes its rows too."""
    batch = {"dpo": len(PAIRS), "sft": len(CONVERSATIONS), "grpo": len(PROMPTS) * GROUP}[case]
    packs = case == "sft" and side != "gptops_ragged"
    if packs:
        batch = 3  # rows of SEQ_LEN that hold all conversations
    return {
        "out_dir": str(folder / f"run-{case}-{side}-{size}"),
        "model": {"init_from": str(folder / size)},
        "data": {"path": str(folder / f"{case}.jsonl"), "tokenizer": {"kind": "bytes"}, "seq_len": SEQ_LEN + 64},
        "sft": {"packing": packs},
        "reward": {"functions": [{"use": f"{folder}/{REWARD}"}], "timeout_seconds": 120.0},
        "rollout": {"max_tokens": COMPLETION},
        "grpo": {"group_size": GROUP},
        "train": {
            "max_steps": 10**6,
            "global_batch_size": batch,
            "micro_batch_size": batch,
            "precision": precision,
            "device": "cpu",
        },
        "optim": {"lr": 1e-6},
        "schedule": {"kind": "constant", "warmup_steps": 0},
        "checkpoint": {"every_steps": 10**6},
        "eval": {"every_steps": 10**6},
        "log": {"every_steps": 10},
    }
