"""`evaluate` on what a checkpoint's own training held back: the figures are those of that training, for every stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.foreign import write_folder
from tests.trainer.tiny import rows as metrics_of
from tests.trainer.tiny import train_tiny
from trainer.cli import main
from trainer.config import run_config
from trainer.loop.start import run_stage

EVERYTHING = ("eval.num_batches=1000", "train.max_steps=4", "eval.every_steps=4")
TRAIN = {"max_steps": 2, "global_batch_size": 4, "micro_batch_size": 2, "precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, conversations and pairs."""
    folder = tmp_path_factory.mktemp("files")
    rows: dict[str, list[dict[str, Any]]] = {
        "texts": [{"text": f"{i}: " + "to be or not to be " * (1 + i % 5)} for i in range(200)],
        "chats": [{"instruction": f"n {i}", "output": str(i % 7)} for i in range(40)],
        "pairs": [{"prompt": f"n {i}", "chosen": str(i % 7), "rejected": "no"} for i in range(40)],
    }
    for name, found in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return folder


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    code = main(["evaluate", *arguments, "--json", "--device", "cpu"])
    said = capsys.readouterr()
    assert code == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


def validated(out_dir: Path) -> dict[str, Any]:
    """What the training found at its end."""
    return next(row for row in reversed(metrics_of(out_dir)) if "val_loss" in row)


@pytest.mark.parametrize("rows", ["concat", "aligned", "isolated"])
def test_rows_are_those_of_the_checkpoints_own_configuration(
    tmp_path: Path, files: Path, rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    how = (f"data.path={files / 'texts.jsonl'}", f"data.rows={rows}", "data.seq_len=24", "data.val_fraction=0.2")
    train_tiny(tmp_path / "run", *how, *EVERYTHING)
    (found,) = evaluated(capsys, str(tmp_path / "run"))["texts"]
    assert found["loss"] == pytest.approx(validated(tmp_path / "run")["val_loss"], abs=1e-5)


def trained(stage: str, out_dir: Path, path: Path, data: dict[str, Any] | None = None, **sections: Any) -> Path:
    base = {
        "out_dir": str(out_dir),
        "data": {"path": str(path), "val_fraction": 0.3, **(data or {})},
        "train": TRAIN,
        "optim": {"lr": 1e-2},
        "schedule": {"warmup_steps": 1},
        "checkpoint": {"every_steps": 2},
        "eval": {"every_steps": 2, "num_batches": 1000},
    }
    run_stage(stage, run_config({**base, **sections}, source="test"))
    return out_dir


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Path:
    """A run of SFT, where runs of other stages begin."""
    model = {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 96}
    out_dir = tmp_path_factory.mktemp("sft") / "run"
    return trained("sft", out_dir, files / "chats.jsonl", {"tokenizer": {"kind": "bytes"}}, model=model)


def test_conversations_are_measured_on_what_is_learnt_of_them(
    chatting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluated(capsys, str(chatting))["stage"]
    assert found["name"] == "sft"
    assert found["loss"] == pytest.approx(validated(chatting)["val_loss"], abs=1e-6)


@pytest.mark.parametrize("stage", ["dpo", "orpo", "reward"])
def test_pairs_are_measured_by_accuracy_and_margin_and_nothing_is_written(
    tmp_path: Path, files: Path, chatting: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(stage, tmp_path / "run", files / "pairs.jsonl", model={"init_from": str(chatting)})
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    found = evaluated(capsys, str(run))["stage"]
    logged = validated(run)
    assert found["loss"] == pytest.approx(logged["val_loss"], abs=1e-6)
    names = [name for name in found if name not in ("name", "data", "loss")]
    assert "reward_accuracy" in names
    assert "reward_margin" in names or stage == "orpo"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_other_rows_and_text_can_be_given(
    tmp_path: Path, files: Path, chatting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"instruction": "say A", "output": "A" * i}) + "\n" for i in range(1, 9)))
    figures = evaluated(capsys, str(chatting), f"data.path={other}")["stage"]
    assert figures["data"] == str(other)
    assert figures["loss"] != evaluated(capsys, str(chatting))["stage"]["loss"]
    (text,) = evaluated(capsys, str(chatting), "--data", str(files / "texts.jsonl"))["texts"]
    assert text["bits_per_byte"] > 0
    assert main(["evaluate", str(chatting), "--data", "sample", "data.path=x"]) == 3
    assert "--data FILE_OR_FOLDER" in capsys.readouterr().err
    assert main(["evaluate", str(chatting), f"data.path={tmp_path / 'gone.jsonl'}"]) == 3
    assert "gone.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "lora"), [("llama", 0), ("gpt2", 2)])
def test_policies_of_transformers_and_adapters_are_measured_like_any_model(
    tmp_path: Path, files: Path, kind: str, lora: int, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_folder(tmp_path / "base", kind)
    sections = {"model": {"init_from": f"hf:{base}"}, "lora": {"rank": lora}}
    run = trained("sft", tmp_path / "run", files / "chats.jsonl", **sections)
    questions = tmp_path / "questions.jsonl"
    row = {"activity_label": "A", "ctx": "To be", "endings": [" or not", " zq"], "label": 0}
    questions.write_text(json.dumps(row) + "\n")
    measured = ("--data", str(files / "texts.jsonl"), "--hellaswag", str(questions))
    found = evaluated(capsys, str(run), *measured)
    exported = tmp_path / "exported"
    assert main(["export", str(run), str(exported)]) == 0
    theirs = evaluated(capsys, str(exported), *measured)
    for name in ("loss", "perplexity", "bits_per_byte"):
        assert found["texts"][0][name] == pytest.approx(theirs["texts"][0][name], rel=1e-4)
    assert found["hellaswag"] == theirs["hellaswag"]
    assert evaluated(capsys, str(run))["stage"]["loss"] == pytest.approx(validated(run)["val_loss"], abs=1e-5)
