"""The reward stage: it begins undecided, tells held-out pairs apart, and its checkpoint serves as a reward model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.tiny import checkpoint, rows
from trainer.chats.packing import packed_rows
from trainer.chats.pairs import load_pairs
from trainer.config import RunConfig, run_config
from trainer.errors import CheckpointError
from trainer.loop.start import run_stage
from trainer.models.policies import open_policy
from trainer.models.reward_model import open_reward_model, scores
from trainer.stages.reward import last_places

PAIRS = [{"prompt": f"n {i}", "chosen": "yes " * (1 + i % 3), "rejected": "no " * (1 + i % 4)} for i in range(80)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return path


def config_of(out_dir: Path, data: Path) -> RunConfig:
    config = {
        "out_dir": str(out_dir),
        "model": {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 64},
        "data": {"path": str(data), "tokenizer": {"kind": "bytes"}},
        "train": {"max_steps": 30, "global_batch_size": 8, "micro_batch_size": 4, "precision": "fp32", "device": "cpu"},
        "optim": {"lr": 3e-3},
        "schedule": {"warmup_steps": 1},
        "checkpoint": {"every_steps": 15},
        "eval": {"every_steps": 15, "num_batches": 4},
        "log": {"every_steps": 1},
    }
    return run_config(config, source="test")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out_dir = tmp_path_factory.mktemp("run") / "reward"
    run_stage("reward", config_of(out_dir, data))
    return out_dir


def test_it_begins_undecided_and_tells_held_out_pairs_apart(run: Path) -> None:
    found = rows(run)
    assert next(row["loss"] for row in found if "loss" in row) == pytest.approx(math.log(2), abs=1e-6)
    last = next(row for row in reversed(found) if "val_loss" in row)
    assert last["val_loss"] < 0.2
    assert last["val_reward_accuracy"] > 0.95


def test_its_checkpoint_scores_answers_and_is_a_policy_too(run: Path) -> None:
    model, tokenizer = open_reward_model(run, torch.device("cpu"))
    pairs = load_pairs(PAIRS, tokenizer, "transcript", seq_len=64, val_fraction=0.1).val
    batch = packed_rows([[pairs[0].chosen], [pairs[0].rejected]], tokenizer.eot_id)
    ids, labels = torch.from_numpy(batch.ids_BT), torch.from_numpy(batch.labels_BT)
    with torch.no_grad():
        chosen, rejected = scores(model, ids, last_places(labels)).tolist()
        assert chosen > rejected
        alone = torch.from_numpy(pairs[0].chosen.ids[None, :-1].astype(np.int64))
        assert scores(model, alone, last_places(labels[:1])).item() == pytest.approx(chosen, abs=1e-5)
    policy, _ = open_policy(checkpoint(run, 30), torch.device("cpu"))
    assert policy.value_head is None


def test_a_checkpoint_of_another_stage_is_no_reward_model(finished_run: Path) -> None:
    with pytest.raises(CheckpointError, match="no reward model"):
        open_reward_model(finished_run, torch.device("cpu"))
