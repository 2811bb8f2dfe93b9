"""The pipeline: everything once, nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer.tiny import TINY, checkpoints
from trainer.cli import main


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
