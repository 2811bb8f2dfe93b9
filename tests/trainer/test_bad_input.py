"""What can be got wrong, by the real command: what, why and hint, the exit code, and nothing made or lost."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.foreign import write_folder
from tests.trainer.test_hub import parquet
from tests.trainer.tiny import TINY, run_trainer
from trainer.cli import main
from trainer.errors import ExitCode

Args = Callable[[Path], list[str]]


def lines_of(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """`error`, `why` and `hint` of what was said on stderr, which holds nothing else of an error."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    rows = [line.split(":", 1) for line in said.splitlines() if line.startswith(("error:", "why:", "hint:"))]
    return {name: text.strip() for name, text in rows}


def pretrained(folder: Path, *overrides: str) -> list[str]:
    config = folder / "tiny.yaml"
    config.write_text(json.dumps({"out_dir": str(folder / "run"), **TINY}))
    return ["pretrain", "--config", str(config), *overrides]


def cut_off(folder: Path) -> list[str]:
    whole = parquet(text=["x" * 500] * 500, compression="none")
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    return pretrained(folder, f"data.path={folder / 'cut.parquet'}")


def hole(folder: Path) -> list[str]:
    whole = parquet(100, text=[f"{n}" * 300 for n in range(500)], compression="none")
    middle = len(whole) // 2
    (folder / "hole.parquet").write_bytes(whole[:4] + bytes(middle) + whole[4 + middle :])
    return pretrained(folder, f"data.path={folder / 'hole.parquet'}")


def no_column(folder: Path) -> list[str]:
    (folder / "rows.jsonl").write_text('{"content": "a"}\n')
    return pretrained(folder, f"data.path={folder / 'rows.jsonl'}")


def begun(folder: Path, *overrides: str) -> list[str]:
    """From a GPT-2 of transformers of 2 layers, width 32 and 96 positions, with its tokenizer."""
    own = write_folder(folder / "own", "gpt2")
    model = {"model": {"init_from": str(own)}, "data": {"path": "sample", "tokenizer": {"path": str(own)}}}
    config = folder / "begun.yaml"
    config.write_text(json.dumps({"out_dir": str(folder / "run"), **TINY, **model}))
    return ["pretrain", "--config", str(config), *overrides]


def other_tokenizer(folder: Path) -> list[str]:
    arguments = begun(folder)
    text = Path(arguments[2]).read_text()
    Path(arguments[2]).write_text(text.replace(json.dumps({"path": str(folder / "own")}), '{"kind": "bytes"}'))
    return arguments


CASES: list[tuple[Args, ExitCode, str, str]] = [
    (lambda f: pretrained(f, "data.seq_len=64"), ExitCode.CONFIG, "longer than the positions", "data.seq_len=32"),
    (lambda f: begun(f, "data.seq_len=500"), ExitCode.CONFIG, "longer than the positions", "data.seq_len=96"),
    (lambda f: begun(f, "model.max_seq_len=500"), ExitCode.CHECKPOINT, "`model.max_seq_len` is 96", "data.seq_len"),
    (lambda f: begun(f, "model.n_layers=3"), ExitCode.CHECKPOINT, "`model.n_layers` is 2 there, 3", "model.n_layers=2"),
    (lambda f: begun(f, "model.d_model=64", "model.n_layers=3"), ExitCode.CHECKPOINT, "`model.d_model`", "d_model=32"),
    (other_tokenizer, ExitCode.CHECKPOINT, "another tokenizer", "data.tokenizer.path="),
    (lambda f: pretrained(f, "model.init_from=/nowhere/at/all"), ExitCode.CHECKPOINT, "no such folder", "owner/name"),
    (cut_off, ExitCode.DATA, "cut.parquet` is not a whole parquet", "fetch it again"),
    (hole, ExitCode.DATA, "hole.parquet` is not a whole parquet", "fetch it again"),
    (no_column, ExitCode.DATA, "no column `text`", "data.text_column"),
    (lambda f: pretrained(f, "train.micro_batch_size=3"), ExitCode.CONFIG, "not a multiple of", "micro_batch_size=1"),
    (lambda f: pretrained(f, "schedule.warmup_steps=12"), ExitCode.CONFIG, "leaves nothing of", "warmup_steps=1"),
    (lambda f: pretrained(f, "model.vocab_size=100"), ExitCode.CONFIG, "smaller than the vocabulary", "vocab_size"),
    (lambda f: pretrained(f, "data.tokenizer.path=x"), ExitCode.CONFIG, "belong together", "data.tokenizer.path="),
    (lambda f: pretrained(f, "lora.rank=4"), ExitCode.CONFIG, "beside weights", "model.init_from="),
    (lambda f: ["evaluate", "hf:a b/c", "--data", "sample"], ExitCode.CHECKPOINT, "`MODEL` is `a b/c`", "owner/name"),
    (lambda f: ["evaluate", str(f), "--data", "sample"], ExitCode.CHECKPOINT, "no checkpoint", "ls runs"),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_it_is_one_error_before_anything_is_made(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, code, what, hint = CASES[number]
    argv = arguments(tmp_path)
    assert main(argv) == code
    said = lines_of(capsys)
    assert what in said["error"]
    assert hint in said["hint"]
    assert said["why"]
    assert list((tmp_path / "run").rglob("*.bin")) == [], "nothing was prepared"
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("arguments", [["optimm.lr=1"], ["optim.lr=abc"], ["train.precision=fp31"]])
def test_a_slip_in_a_setting_says_where_all_are_listed(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", *arguments]) == ExitCode.CONFIG
    assert "python -m trainer config" in lines_of(capsys)["hint"]


def test_a_hub_that_cannot_be_reached_is_said_before_anything_is_prepared(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        environ = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        code, _, err = run_trainer(tmp_path / "run", "model.init_from=a/model", HF_HUB_OFFLINE="0", **environ)
    assert code == ExitCode.CHECKPOINT, err
    assert "the model `a/model` could not be brought from the hub" in err
    assert "HF_ENDPOINT" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "data").exists()
