"""SFT: packed equals apart, ranks see the rows of one, and a small task is learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.tiny import checkpoint
from trainer.chats.encoding import encode_segments
from trainer.chats.messages import Conversation, Message
from trainer.chats.template import opening_of
from trainer.config import RunConfig, run_config
from trainer.errors import DataError, TrainerError
from trainer.loop.start import run_stage
from trainer.models.build import build_model
from trainer.models.generate import generate_batch
from trainer.models.policies import open_policy
from trainer.models.sampling import Sampling
from trainer.stages.sft import SftStage, rows_of

LETTERS = "abcdefgh"


def pairs(first: int, last: int) -> list[dict[str, Any]]:
    """The last and the first of three letters, as capitals: number `i` in base 8 says which."""
    asked = ["".join(LETTERS[i // 8**k % 8] for k in range(3)) for i in range(first, last)]
    return [{"instruction": each, "output": (each[2] + each[0]).upper()} for each in asked]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs(0, 64)))
    return path


def config_of(out_dir: Path, rows: Path, *overrides: str, arch: str = "gpt2") -> RunConfig:
    base = {
        "out_dir": str(out_dir),
        "model": {"arch": arch, "d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 96},
        "data": {"path": str(rows), "tokenizer": {"kind": "bytes"}, "val_fraction": 0.1},
        "train": {"max_steps": 6, "global_batch_size": 4, "micro_batch_size": 2, "precision": "fp32", "device": "cpu"},
        "optim": {"lr": 3e-3},
        "schedule": {"warmup_steps": 1},
        "checkpoint": {"every_steps": 3},
        "eval": {"every_steps": 3, "num_batches": 2},
        "log": {"every_steps": 1},
    }
    return run_config(base, source="test", overrides=overrides)


def stage_of(config: RunConfig, rank: int = 0, num_processes: int = 1) -> SftStage:
    from trainer.chats.dataset import load_chats
    from trainer.chats.rows import read_rows
    from trainer.tokenizer import open_tokenizer

    tokenizer = open_tokenizer(config.data.tokenizer)
    data = load_chats(
        read_rows(config.data), tokenizer, "transcript", seq_len=config.seq_len, val_fraction=config.data.val_fraction
    )
    return SftStage(config, data, tokenizer, rank=rank, num_processes=num_processes, device=torch.device("cpu"))


@pytest.mark.parametrize("arch", ["gpt2", "modern"])
def test_packed_conversations_have_the_loss_they_have_apart(tmp_path: Path, rows: Path, arch: str) -> None:
    config = config_of(tmp_path / "run", rows, arch=arch)
    torch.manual_seed(0)
    model = build_model(config.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    losses = []
    for packing in ("true", "false"):
        stage = stage_of(config_of(tmp_path / "run", rows, f"sft.packing={packing}", arch=arch))
        chats = stage._data.train[:20]
        batch = stage._batch(rows_of(chats, config.seq_len, packing=packing == "true"))
        losses.append((float(stage.loss(model, batch).loss_sum.detach()), batch.num_units))
    assert losses[0][1] == losses[1][1]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)


def test_the_same_rows_come_whatever_the_number_of_ranks(tmp_path: Path, rows: Path) -> None:
    config = config_of(tmp_path / "run", rows)
    one = stage_of(config).batches(torch.nn.Identity())
    two = [stage_of(config, rank, 2).batches(torch.nn.Identity()) for rank in (0, 1)]
    for _ in range(3):
        together = [next(one), next(one)]
        apart = [next(side) for side in two]
        assert [batch.sample_ids for batch in together] == [batch.sample_ids for batch in apart]
        assert all(torch.equal(a.ids_BT, b.ids_BT) for a, b in zip(together, apart, strict=True))


def test_other_conversations_are_not_gone_on_with(tmp_path: Path, rows: Path) -> None:
    run_stage("sft", config_of(tmp_path / "run", rows, "train.max_steps=3"))
    rows.write_text("".join(json.dumps(row) + "\n" for row in pairs(64, 128)))
    with pytest.raises(TrainerError, match="not the ones this run began with"):
        run_stage("sft", config_of(tmp_path / "run", rows))


def test_a_file_of_text_is_no_conversation(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Once upon a time")
    with pytest.raises(DataError, match="conversations are needed"):
        run_stage("sft", config_of(tmp_path / "run", tmp_path / "text.txt"))


def test_a_small_task_is_learnt_and_held_out_questions_are_answered(tmp_path: Path) -> None:
    """From nine tenths of 512 questions the others can be answered."""
    path, out_dir = tmp_path / "rows.jsonl", tmp_path / "run"
    shuffled = [pairs(0, 512)[i * 195 % 512] for i in range(512)]
    path.write_text("".join(json.dumps(row) + "\n" for row in shuffled))
    overrides = ["train.max_steps=250", "train.global_batch_size=16", "train.micro_batch_size=16", "model.d_model=64"]
    quiet = ["checkpoint.every_steps=250", "eval.every_steps=250", "log.every_steps=100", "sft.packing=false"]
    config = config_of(out_dir, path, *overrides, *quiet, arch="modern")
    run_stage("sft", config)
    model, tokenizer = open_policy(checkpoint(out_dir, 250), torch.device("cpu"))
    held_out = shuffled[-51:]
    asked = [opening_of(Conversation((Message("user", row["instruction"]),)), "transcript") for row in held_out]
    prompts = [encode_segments(each, tokenizer).ids.tolist() for each in asked]
    found = generate_batch(model, prompts, max_tokens=8, sampling=Sampling(0.0), stop_ids=[tokenizer.eot_id])
    answers = [tokenizer.decode(each.ids).strip() for each in found]
    right = sum(answer == row["output"] for answer, row in zip(answers, held_out, strict=True))
    assert right >= 0.95 * len(held_out)
