"""Preferences: the losses' known values, pairs that are too long, the reference computed once, and a task learnt."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.trainer.tiny import assert_same_run, checkpoint, rows
from trainer.chats.encoding import Encoded
from trainer.chats.pairs import EncodedPair, fitted_pair
from trainer.config import ConfigError, RunConfig, run_config
from trainer.errors import TrainerError
from trainer.loop.start import run_stage
from trainer.models import token_logps
from trainer.models.loss import IGNORE_INDEX
from trainer.stages import preference_losses as losses


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


MARGIN = losses.log_ratio_margin(values(-10.0), values(-12.0), values(-11.0), values(-11.5))


def test_dpo_and_its_relatives_have_their_known_values() -> None:
    assert float(MARGIN) == pytest.approx(1.5)
    assert float(losses.dpo_sigmoid(MARGIN, 0.1)) == pytest.approx(0.6209570478, abs=1e-9)
    assert float(losses.dpo_sigmoid(MARGIN, 0.1, 0.1)) == pytest.approx(0.6359570478, abs=1e-9)
    assert float(losses.dpo_hinge(MARGIN, 0.1)) == pytest.approx(0.85)
    assert float(losses.ipo(MARGIN, 0.1)) == pytest.approx(12.25)


def test_a_policy_that_is_the_reference_begins_at_ln_2_and_25() -> None:
    nothing = values(0.0)
    assert float(losses.dpo_sigmoid(nothing, 0.1)) == pytest.approx(math.log(2))
    assert float(losses.ipo(nothing, 0.1)) == pytest.approx(25.0)


def test_the_odds_ratio_term_has_trls_values() -> None:
    chosen, rejected = values(-1.2, -0.7, -2.0), values(-1.5, -2.2, -1.0)
    term = 0.1 * F.logsigmoid(losses.log_odds_ratio(chosen, rejected))
    assert term.tolist() == pytest.approx([-0.0511, -0.0119, -0.1551], abs=5e-5)
    assert torch.allclose(losses.orpo(chosen, rejected, 0.1), -chosen - term)


def test_what_rounding_leaves_of_a_margin_prefers_nothing() -> None:
    sides = values(-60.0, -60.0, -60.0), values(-50.0, -50.0, -50.0)
    assert losses.is_preferred(values(4e-6, 0.01, -0.01), *sides).tolist() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize("slice_logits", [11, 22, 2**25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_probabilities_of_labels_and_their_gradients_are_those_of_whole_logits(
    dtype: torch.dtype, slice_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_logps, "SLICE_LOGITS", slice_logits)
    torch.manual_seed(0)
    hidden = torch.randn(7, 4, dtype=dtype, requires_grad=True)
    weight = torch.randn(11, 4, dtype=dtype, requires_grad=True)
    labels = torch.tensor([1, IGNORE_INDEX, 5, 10, IGNORE_INDEX, 0, 3])
    weights = torch.randn(7)
    found = token_logps.linear_token_logps(hidden, weight, labels)
    (found * weights).sum().backward()
    mine = [hidden.grad, weight.grad]
    hidden.grad = weight.grad = None
    whole = F.log_softmax((hidden @ weight.T).float(), -1)
    plain = whole.gather(-1, labels.clamp(min=0)[:, None]).squeeze(-1) * (labels != IGNORE_INDEX)
    (plain * weights).sum().backward()
    assert torch.allclose(found, plain, atol=1e-6)
    assert torch.allclose(mine[0], hidden.grad, atol=1e-6)  # type: ignore[arg-type]
    assert torch.allclose(mine[1], weight.grad, atol=1e-6)  # type: ignore[arg-type]


def test_a_rank_without_a_label_still_reaches_every_parameter() -> None:
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    token_logps.linear_token_logps(hidden, weight, torch.full((3,), IGNORE_INDEX)).sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


def side(length: int, begins: int) -> Encoded:
    return Encoded(np.arange(length, dtype=np.int32), np.arange(length) >= begins)


def test_a_long_pair_loses_the_front_of_its_prompt_and_never_its_answer() -> None:
    counts: Counter[str] = Counter()
    pair = fitted_pair(EncodedPair(side(12, 8), side(10, 8)), 8, counts)
    assert pair is not None
    assert (len(pair.chosen), len(pair.rejected)) == (9, 7)
    assert pair.chosen.ids[pair.chosen.is_trained].tolist() == [8, 9, 10, 11]
    assert fitted_pair(EncodedPair(side(20, 8), side(10, 8)), 8, counts) is None
    assert counts == {"prompt cut": 1, "an answer too long": 1}


LETTERS = "abcdefgh"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has seen the pairs' shape, to begin from."""
    folder = tmp_path_factory.mktemp("base")
    asked = ["".join(LETTERS[i // 8**k % 8] for k in range(3)) for i in range(512)]
    shuffled = [asked[i * 195 % 512] for i in range(512)]
    answers = [{"instruction": each, "output": each[i % 2] * 2} for i, each in enumerate(shuffled)]
    (folder / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    pairs = [
        {"prompt": each, "chosen": each[0] * 2, "rejected": each[1] * 2} for each in shuffled if each[0] != each[1]
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    config = {
        "out_dir": str(folder / "sft"),
        "model": {"arch": "modern", "d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 64},
        "data": {"path": str(folder / "sft.jsonl"), "tokenizer": {"kind": "bytes"}},
        **settings(60),
    }
    run_stage("sft", run_config(config, source="test"))
    return folder


def settings(max_steps: int) -> dict[str, Any]:
    return {
        "train": {
            "max_steps": max_steps,
            "global_batch_size": 16,
            "micro_batch_size": 8,
            "precision": "fp32",
            "device": "cpu",
        },
        "optim": {"lr": 3e-3},
        "schedule": {"warmup_steps": 2},
        "checkpoint": {"every_steps": 1000},
        "eval": {"every_steps": 1000, "num_batches": 100},
        "log": {"every_steps": 1},
    }


def config_of(base: Path, out_dir: Path, *overrides: str, max_steps: int = 6) -> RunConfig:
    config = {
        "out_dir": str(out_dir),
        "model": {"init_from": str(base / "sft")},
        "data": {"path": str(base / "pairs.jsonl")},
        **settings(max_steps),
    }
    return run_config(config, source="test", overrides=overrides)


def metric(out_dir: Path, name: str, step: int) -> float:
    (found,) = [row[name] for row in rows(out_dir) if row["step"] == step and name in row]
    return float(found)


@pytest.mark.parametrize(
    ("loss", "begins_at"), [("sigmoid", math.log(2)), ("hinge", 1.0), ("ipo_sum", 25.0), ("ipo_mean", 25.0)]
)
def test_dpo_begins_where_policy_and_reference_are_one(base: Path, tmp_path: Path, loss: str, begins_at: float) -> None:
    out_dir = tmp_path / "run"
    run_stage("dpo", config_of(base, out_dir, f"dpo.loss={loss}", max_steps=3))
    assert metric(out_dir, "loss", 1) == pytest.approx(begins_at, rel=1e-4)
    assert metric(out_dir, "reward_margin", 1) == pytest.approx(0, abs=1e-4)
    assert metric(out_dir, "val_loss", 3) < begins_at


def test_a_stopped_dpo_goes_on_to_the_bit_and_reads_the_reference_again(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_stage("dpo", config_of(base, tmp_path / "whole", "checkpoint.every_steps=3"))
    run_stage("dpo", config_of(base, tmp_path / "parts", "checkpoint.every_steps=3"))
    checkpoint(tmp_path / "parts", 6).rename(tmp_path / "away")
    capsys.readouterr()
    run_stage("dpo", config_of(base, tmp_path / "parts", "checkpoint.every_steps=3"))
    assert "reference:" not in capsys.readouterr().out
    assert_same_run(tmp_path / "whole", tmp_path / "parts", 6)


@pytest.mark.parametrize("stage", ["dpo", "orpo"])
def test_held_out_pairs_are_told_apart_after_a_short_training(base: Path, tmp_path: Path, stage: str) -> None:
    out_dir = tmp_path / "run"
    quiet = ["log.every_steps=100", "orpo.beta=0.5"]
    run_stage(stage, config_of(base, out_dir, *quiet, max_steps=100))
    assert metric(out_dir, "val_reward_accuracy", 100) > 0.95


def test_dpo_without_weights_to_begin_from_is_refused(base: Path, tmp_path: Path) -> None:
    config = config_of(base, tmp_path / "run").model_copy(deep=True)
    alone = config.model.model_copy(update={"init_from": ""})
    with pytest.raises(ConfigError, match=r"model\.init_from"):
        run_stage("dpo", config.model_copy(update={"model": alone}))


def test_conversations_are_no_pairs(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainerError) as caught:
        run_stage("dpo", config_of(base, tmp_path / "run", f"data.path={base / 'sft.jsonl'}"))
    assert "no `chosen` and `rejected`" in caught.value.why


def test_smoothing_goes_with_the_sigmoid_alone() -> None:
    with pytest.raises(ConfigError, match="label_smoothing"):
        run_config({"dpo": {"loss": "hinge", "label_smoothing": 0.1}}, source="test")
