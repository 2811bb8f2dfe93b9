"""`--dry-run`: the plan, and proof that this machine trains."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.tiny import tiny_config
from trainer.cli import main
from trainer.config import run_config
from trainer.dry_run import dry_run
from trainer.plan import plan_text
from trainer.sizing import training_plan

Golden = Callable[[str, str], None]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_plan_reads_like_this(golden: Golden) -> None:
    gpt2 = {
        "model": {"preset": "gpt2", "vocab_size": 50304},
        "train": {"max_steps": 19073, "global_batch_size": 512, "micro_batch_size": 32, "precision": "bf16"},
    }
    golden("trainer_plan_gpt2.txt", plan_text(training_plan(run_config(gpt2, source="test"), num_gpus=8)) + "\n")


def test_without_a_configuration_it_proves_the_installation_and_leaves_nothing(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden: Golden, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert list(scratch.glob("gptops*")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    for words in ("parameters", "FLOPs", "H100", "saved `step_00000010`", "resumed from `step_00000010`", "sample: "):
        assert words in out
    assert out.endswith("this installation trains, saves, resumes and writes\n")


def test_with_a_configuration_it_prints_that_plan_and_touches_nothing_of_it(
    scratch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry_run("pretrain", tiny_config(tmp_path / "run", "train.precision=fp32"))
    out = capsys.readouterr().out
    assert re.search(r"parameters +34,720", out)
    assert not (tmp_path / "run").exists()
    assert list(scratch.glob("gptops*")) == []


def test_a_stage_with_rows_of_the_users_own_is_proven_without_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dpo", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "what `dpo` reads is looked at when it starts" in said
    assert "this installation trains, saves, resumes and writes" in said
