"""The pipeline: everything once, nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer.tiny import TINY, checkpoints
from trainer.cli import main
from trainer.config import load_yaml
from trainer.errors import ExitCode


def test_all_goes_from_text_to_figures_and_does_nothing_a_second_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "tiny.yaml"
    bpe = {"path": "sample", "tokenizer": {"kind": "bpe", "vocab_size": 300}}
    out_dir = tmp_path / "run"
    config.write_text(json.dumps({**TINY, "data": bpe, "out_dir": str(out_dir)}))
    command = ["all", "--config", str(config), "train.max_steps=4", "checkpoint.every_steps=2"]
    assert main(command) == 0
    said = capsys.readouterr().out
    for words in ("training the tokenizer", "step 4/4", "bits per byte", "evaluation.json"):
        assert words in said
    found = json.loads((out_dir / "evaluation.json").read_text())
    assert found["checkpoint"] == "step_00000004"
    assert found["texts"][0]["bits_per_byte"] > 0
    prepared = {path: path.stat().st_mtime_ns for path in (out_dir / "data").rglob("*.bin")}
    assert prepared
    assert main(command) == 0
    again = capsys.readouterr().out
    assert "measured already" in again
    assert "training the tokenizer" not in again
    assert {path: path.stat().st_mtime_ns for path in prepared} == prepared
    assert checkpoints(out_dir)[-1] == 4
    assert main([*command[:-2], "train.max_steps=6"]) == 0
    assert json.loads((out_dir / "evaluation.json").read_text())["checkpoint"] == "step_00000006"


@pytest.fixture
def pipeline(tmp_path: Path) -> list[str]:
    """A pretraining, and fine-tuning and preferences after it."""
    base = {**TINY, "model": {**TINY["model"], "max_seq_len": 96}, "out_dir": str(tmp_path / "run")}
    later = {name: TINY[name] for name in ("train", "optim", "schedule", "checkpoint", "log")}
    rows = {
        "sft": [{"instruction": f"n {i}", "output": str(i % 7)} for i in range(20)],
        "dpo": [{"prompt": f"n {i}", "chosen": str(i % 7), "rejected": "no"} for i in range(20)],
    }
    for stage, each in rows.items():
        (tmp_path / f"{stage}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
        config = {**later, "data": {"path": str(tmp_path / f"{stage}.jsonl"), "val_fraction": 0.2}}
        (tmp_path / f"{stage}.yaml").write_text(json.dumps({**config, "train": {**TINY["train"], "max_steps": 4}}))
    (tmp_path / "base.yaml").write_text(json.dumps(base))
    then = [word for stage in rows for word in ("--then", f"{stage}={tmp_path / f'{stage}.yaml'}")]
    return ["all", "--config", str(tmp_path / "base.yaml"), "train.max_steps=4", *then]


def test_later_stages_begin_where_the_one_before_ended_and_are_measured_too(
    tmp_path: Path, pipeline: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(pipeline[:-2]) == 0  # as if it had been stopped before the last stage
    assert main(pipeline) == 0
    said = capsys.readouterr().out
    assert said.count("measured already") == 2
    figures = {
        stage: json.loads((tmp_path / "run" / stage / "evaluation.json").read_text()) for stage in ("sft", "dpo")
    }
    assert figures["sft"]["stage"]["loss"] > 0
    assert 0 <= figures["dpo"]["stage"]["reward_accuracy"] <= 1
    config = load_yaml(tmp_path / "run" / "dpo" / "checkpoints" / "step_00000004" / "config.yaml")
    assert config["model"]["init_from"] == str(tmp_path / "run" / "sft")


@pytest.mark.parametrize(
    ("then", "what"),
    [("stf=x.yaml", "did you mean `sft`?"), ("sft", "STAGE=FILE"), ("sft=BAD", "optimm: unknown key")],
)
def test_what_is_wrong_with_a_later_stage_is_said_before_the_first_begins(
    tmp_path: Path, pipeline: list[str], then: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("optimm: {lr: 1}")
    assert main([*pipeline[:4], "--then", then.replace("BAD", str(tmp_path / "bad.yaml"))]) == ExitCode.CONFIG
    assert what in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_several_processes_take_one_stage_at_a_time(
    tmp_path: Path, pipeline: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(pipeline) == ExitCode.CONFIG
    assert f"-m trainer sft --config FILE model.init_from={tmp_path / 'run'}" in capsys.readouterr().err
