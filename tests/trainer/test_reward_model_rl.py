"""A reward model judges what a policy samples, beside functions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.tiny import rows
from tests.trainer.toy_task import toy_config, toy_files
from trainer.errors import CheckpointError
from trainer.loop.distributed import opened_world
from trainer.loop.start import run_stage
from trainer.rollouts.judges import RowJudge
from trainer.rollouts.rows import RolloutRow
from trainer.tokenizer.raw_bytes import BytesTokenizer


def test_a_reward_model_is_asked_about_what_was_sampled(tmp_path: Path) -> None:
    toy = toy_files(tmp_path / "toy")
    pairs = [{"prompt": a, "chosen": b.upper() * 3, "rejected": b * 3} for a in "abcdefgh" for b in "stuvwxyz"]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    overrides = (f"data.path={tmp_path / 'pairs.jsonl'}", "train.max_steps=20", "log.every_steps=20")
    run_stage("reward", toy_config(toy, tmp_path / "judge", *overrides))
    judge = f"[{{use: 'model:{tmp_path / 'judge'}'}}, {{use: length, weight: 0.5}}]"
    run_stage("ppo", toy_config(toy, tmp_path / "run", f"reward.functions={judge}", "train.max_steps=2"))
    found = next(row for row in rows(tmp_path / "run") if "reward/model" in row)
    assert found["reward"] == pytest.approx(found["reward/model"] + 0.5 * found["reward/length"])
    with opened_world(toy_config(toy, tmp_path / "run").train) as world:
        model = RowJudge(str(tmp_path / "judge"), BytesTokenizer(), toy_config(toy, tmp_path / "run"), world.device)
    upper, lower = ((f"User: a\nAssistant: {text}".encode()) for text in ("SSS", "sss"))
    ended = [
        RolloutRow(np.asarray([*text, 256], np.int32), np.ones(len(text) + 1, np.bool_), 0) for text in (upper, lower)
    ]
    cut = [RolloutRow(row.ids[:-1], row.is_sampled[:-1], 0) for row in ended]
    more, less = model.scores([], ended)
    assert more > less
    assert model.scores([], cut) == pytest.approx([more, less], abs=1e-5)


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    toy = toy_files(tmp_path / "toy")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        run_stage("rgpo", toy_config(toy, tmp_path / "run", "reward.functions=[{use: 'model:nowhere'}]"))
    run_stage("rgpo", toy_config(toy, tmp_path / "other", "train.max_steps=2"))
    with pytest.raises(CheckpointError, match="is no reward model"):
        run_stage(
            "rgpo", toy_config(toy, tmp_path / "run", f"reward.functions=[{{use: 'model:{tmp_path / 'other'}'}}]")
        )
