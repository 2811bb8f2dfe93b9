"""`--dry-run`: the plan, and proof that this machine trains."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.foreign import write_folder
from tests.trainer.test_hub_template import MARKED
from tests.trainer.tiny import tiny_config
from tests.trainer.toy_task import toy_files
from trainer.cli import main
from trainer.config import ACCEPTED_STAGES, run_config
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


def without_a_configuration(stage: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([stage, "--dry-run"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("stage", [stage for stage in ACCEPTED_STAGES if stage != "pretrain"])
def test_every_stage_takes_steps_of_its_own_on_rows_that_are_written_for_it(
    stage: str, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = without_a_configuration(stage, capsys)
    assert f"a tiny model, `{stage}` on rows written here" in said
    assert "resumed from `step_00000003`" in said
    assert re.search(r"^6 steps in \S+, [\d,]+ tokens, \d+\.\d\d GiB at most$", said, re.MULTILINE)
    own = {"sft": "are learnt", "reward": "val loss", "dpo": "reference: 64 pairs", "orpo": "`texts` rows"}
    assert own.get(stage, "rewards length") in said
    assert said.endswith(f"this installation trains `{stage}`, saves, resumes and writes\n")
    assert list(scratch.glob("gptops*")) == []


def test_the_users_rows_and_functions_are_what_is_proven(
    scratch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = toy_files(tmp_path / "toy")
    rows = [{"question": f"n {i}", "right": "yes " * 30, "wrong": "no"} for i in range(40)]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapping = "data.mapping={prompt: question, chosen: right, rejected: wrong}"
    given = ["dpo.loss=ipo_mean", "lora.rank=8", "lora.targets=[q_proj]", "model.init_from=hf:owner/name"]
    assert main(["dpo", "--dry-run", f"data.path={pairs}", mapping, *given]) == 0
    said = capsys.readouterr().out
    assert f"`dpo` on `{pairs}` (at most 256 rows)" in said
    assert "rows are read as bytes" in said
    assert "pairs" in said
    assert "36 to train on" in said
    assert "known when it is here" in said
    functions = f"reward.functions=[{{use: '{toy / 'rewards.py'}:capitals'}}, {{use: 'model:runs/judge'}}]"
    assert main(["grpo", "--dry-run", f"data.path={toy / 'prompts.jsonl'}", functions]) == 0
    said = capsys.readouterr().out
    assert "rewards capitals" in said
    assert "left out: model:runs/judge" in said


def test_a_tokenizer_that_lies_here_is_used_with_its_template(
    scratch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "policy", template=MARKED)
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"instruction": "Say it.", "output": "It."}\n' * 40)
    given = [f"model.init_from=hf:{folder}", "data.seq_len=64", "sft.template=hub", f"data.path={chats}"]
    assert main(["sft", "--dry-run", *given]) == 0
    said = capsys.readouterr().out
    assert "`alpaca` rows as `hub`, 40 rows" in said
    assert "rows are read as bytes" not in said


def test_rows_that_cannot_be_trained_on_are_found_out(
    scratch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "a", "chosen": "b", "rejected": "b"}\n' * 20)
    assert main(["dpo", "--dry-run", f"data.path={pairs}"]) == 3
    assert "`chosen` and `rejected` are equal" in capsys.readouterr().err
    assert main(["sft", "--dry-run", f"data.path={tmp_path / 'nowhere.jsonl'}"]) == 3
    assert list(scratch.glob("gptops*")) == []
