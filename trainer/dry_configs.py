"""The smallest configurations that prove a stage: a tiny model with everything else that the user's own says.

Rows, mapping, rewards, losses, adapters and, where it lies here, the tokenizer are the user's; sizes and the number of
steps are not. What cannot be taken over is told. No torch here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import DataConfig, RunConfig, run_config
from trainer.config.hf_policy import HF
from trainer.config.sources import SAMPLE

PRETRAIN_STEPS = (10, 20)
"""Where a checkpoint is saved, from which the rest is trained."""
STAGE_STEPS = (3, 6)
_MOST_ROWS = 256
_LONGEST = 1024
"""Tokens in a row, at most: minutes would pass with more on a laptop."""
_BYTES_PER_TOKEN = 4
"""About: rows that a word-piece tokenizer would write are so much longer in bytes."""
_SEQUENCES = 8
"""A step of one process."""
_SAMPLING = ("ppo", "grpo", "rgpo")


@dataclass(frozen=True)
class TinyRun:
    """A run, and in what it differs from the one that was asked for."""

    config: RunConfig
    rows: str
    """What is trained on, in words."""
    notes: tuple[str, ...] = ()


def tiny_pretraining(folder: Path, like: RunConfig, num_processes: int) -> RunConfig:
    """On the text that ships with the trainer; seconds on one core."""
    model = {"d_model": 64, "n_layers": 2, "n_heads": 2, "max_seq_len": 64, "dropout": 0.1}
    data = {"path": SAMPLE, "tokenizer": {"kind": "bytes"}}
    return _run(folder / "run", like, num_processes, PRETRAIN_STEPS, model=model, data=data)


def tiny_base(folder: Path, like: RunConfig, num_processes: int) -> RunConfig:
    """What a later stage begins from: pretrained for a moment, with positions for the rows of that stage."""
    model = {"d_model": 64, "n_layers": 2, "n_heads": 2, "max_seq_len": _row_length(like)}
    data = {"path": SAMPLE, "tokenizer": _tokenizer(like), "seq_len": min(64, _row_length(like))}
    return _run(folder / "base", like, num_processes, (2, 2), model=model, data=data)


def tiny_stage(stage: str, folder: Path, like: RunConfig, num_processes: int) -> TinyRun:
    """The stage from `tiny_base`, on the user's rows or, where none are named, on rows that are written here."""
    data, rows = _rows(stage, folder, like)
    notes = [] if _has_tokenizer(like) or not _has_rows(like) else [_NO_TOKENIZER]
    functions, reward_note = _reward_functions(stage, like)
    given = like.model_dump(mode="json")
    sections = {
        "model": {"init_from": str(folder / "base"), "dropout": like.model.dropout},
        "data": {**data, "seq_len": _row_length(like)},
        "lora": {"rank": min(like.lora.rank, 4), "dropout": like.lora.dropout},
        "sft": {**given["sft"], "template": like.sft.template if _has_tokenizer(like) else "auto"},
        "reward": {**given["reward"], "functions": functions},
        "rollout": {**given["rollout"], "completions": None, "max_tokens": _longest_answer(like)},
        "grpo": {**given["grpo"], "group_size": 4 if like.grpo.group_size >= 4 else 2},
        **{name: given[name] for name in ("dpo", "orpo", "ppo", "rgpo")},
    }
    config = _run(folder / "run", like, num_processes, STAGE_STEPS, **sections)
    return TinyRun(config, rows, (*notes, *reward_note))


def _run(out_dir: Path, like: RunConfig, num_processes: int, steps: tuple[int, int], **sections: Any) -> RunConfig:
    """With the precision, device and compilation of the real one."""
    half, last = steps
    train = {name: getattr(like.train, name) for name in ("precision", "device", "compile")}
    sizes = {"global_batch_size": _SEQUENCES * num_processes, "micro_batch_size": _SEQUENCES // 2, "max_steps": last}
    common = {
        "out_dir": str(out_dir),
        "train": {**train, **sizes},
        "optim": {"lr": 3e-3},
        "schedule": {"warmup_steps": 1},
        "checkpoint": {"every_steps": half},
        "eval": {"every_steps": half, "num_batches": 2},
        "log": {"every_steps": max(1, half // 2)},
    }
    return run_config({**common, **sections}, source="dry run")


# --- rows ------------------------------------------------------------------------------------------------------------

_WRITTEN = "rows written here, since none are named"
_NO_TOKENIZER = "the policy's tokenizer is not in a folder here: rows are read as bytes, and written as a transcript"


def _rows(stage: str, folder: Path, like: RunConfig) -> tuple[dict[str, Any], str]:
    """The data section, and in words what it names."""
    if _has_rows(like):
        given = like.data.model_dump(mode="json", exclude={"tokenizer", "seq_len"})
        most = min(like.data.max_samples or _MOST_ROWS, _MOST_ROWS)
        return {**given, "max_samples": most}, f"`{like.data.path}` (at most {most} rows)"
    return {"path": str(written_rows(stage, folder)), "val_fraction": DataConfig().val_fraction}, _WRITTEN


def _has_rows(like: RunConfig) -> bool:
    return like.data.path != SAMPLE or bool(like.data.datasets)


def written_rows(stage: str, folder: Path) -> Path:
    """Rows that the stage can read: sums. Where they lie; somebody writes them with `write_rows`."""
    return folder / f"{stage}.jsonl"


def write_rows(stage: str, folder: Path) -> None:
    """Write them."""
    sums = [(f"{a} + {b} =", f" {a + b}", f" {a + b + 1}") for a in range(8) for b in range(8)]
    if stage in ("dpo", "orpo", "reward"):
        rows = [{"prompt": asked, "chosen": right, "rejected": wrong} for asked, right, wrong in sums]
    else:
        rows = [{"prompt": asked, "completion": right} for asked, right, _ in sums]
    written_rows(stage, folder).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _row_length(like: RunConfig) -> int:
    """Tokens in a row."""
    if not _has_rows(like):
        return 128
    wanted = like.seq_len if _has_tokenizer(like) else _BYTES_PER_TOKEN * like.seq_len
    return max(32, min(_LONGEST, wanted))


def _longest_answer(like: RunConfig) -> int:
    return min(like.rollout.max_tokens, 32, _row_length(like) // 2)


# --- what of the policy can be had -----------------------------------------------------------------------------------


def _has_tokenizer(like: RunConfig) -> bool:
    """Whether the tokenizer of the run lies here; that of the others would have to be fetched or trained."""
    return like.data.tokenizer.kind in ("folder", "bytes") and like.model.is_known


def _tokenizer(like: RunConfig) -> dict[str, Any]:
    if not _has_tokenizer(like):
        return {"kind": "bytes"}
    return like.data.tokenizer.model_dump(mode="json", exclude_defaults=True) or {"kind": "bytes"}


def _reward_functions(stage: str, like: RunConfig) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Those of the user, for the user's rows. A reward model that reads ids needs the policy's tokenizer."""
    functions = [function.model_dump(mode="json") for function in like.reward.functions]
    if stage not in _SAMPLING:
        return [], ()
    if not functions or not _has_rows(like):
        return [{"use": "length", "options": {"target": 4}}], ("completions are rewarded by `length`",)
    able = [each for each in functions if not _reads_ids(each["use"]) or _has_tokenizer(like)]
    left_out = [each["use"] for each in functions if each not in able]
    note = (f"left out: {', '.join(left_out)}, for it reads the ids of another tokenizer",) if left_out else ()
    return able or [{"use": "length", "options": {"target": 4}}], note


def _reads_ids(use: str) -> bool:
    return use.startswith("model:") and not use.startswith(f"model:{HF}")
