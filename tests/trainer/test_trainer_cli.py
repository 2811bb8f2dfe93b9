"""`python -m trainer` as a person meets it: help, errors, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.tiny import ROOT, TINY, checkpoint
from trainer.cli import main
from trainer.config_keys import keys
from trainer.errors import ExitCode

Golden = Callable[[str, str], None]


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(json.dumps({**TINY, "out_dir": str(tmp_path / "run")}))
    return path


@pytest.mark.parametrize("words", [[], ["pretrain"], ["prepare"], ["generate"], ["plot"]])
def test_help_says_what_there_is(words: list[str], golden: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code == 0
    golden(f"trainer_help{''.join('_' + word for word in words)}.txt", capsys.readouterr().out)


def test_every_key_is_listed_with_its_default_and_what_it_means(
    golden: Golden, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config"]) == ExitCode.OK
    golden("trainer_config.txt", capsys.readouterr().out)


def test_every_listed_key_can_be_typed_as_it_is_listed(config_file: Path) -> None:
    paths = [key.path for key in keys()]
    assert len(paths) == len(set(paths)) > 40
    assert "data.tokenizer.kind" in paths


def test_help_and_a_wrong_configuration_need_no_torch() -> None:
    program = (
        "import sys; from trainer.cli import main; "
        "code = main(['pretrain', 'train.max_step=3']); print(code, sorted({'torch', 'accelerate'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "2 []\n"
    assert "did you mean `max_steps`?" in result.stderr


def test_the_trainer_never_imports_the_launcher_or_its_packages() -> None:
    program = (
        "import sys, pkgutil, importlib, trainer\n"
        "for module in pkgutil.walk_packages(trainer.__path__, 'trainer.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "seen = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(seen & {'launcher', 'fabric', 'paramiko', 'typer', 'rich'}))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train.max_stepz=3"], ExitCode.CONFIG, "train.max_stepz: unknown key (did you mean `max_steps`?)"),
        (["train.max_steps=many"], ExitCode.CONFIG, "train.max_steps: `'many'` is not a whole number"),
        (["optim.lr='3e-4'"], ExitCode.CONFIG, "optim.lr: `'3e-4'` is not a number"),
        (["data.path=/no/such/corpus"], ExitCode.DATA, "`/no/such/corpus`"),
        (["resume=must"], ExitCode.CHECKPOINT, "there is no checkpoint to go on from"),
        (["train.precision=fp16"], ExitCode.ENGINE, "fp16 needs a GPU"),
        (["out_dir=/dev/null/x"], ExitCode.ENGINE, "cannot write in `/dev/null/x`"),
        (["train.global_batch_size=7"], ExitCode.CONFIG, "7 is not a multiple of train.micro_batch_size 2"),
    ],
)
def test_a_fault_of_the_user_is_one_error_with_its_exit_code(
    config_file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: ExitCode, words: str
) -> None:
    assert main(["pretrain", "--config", str(config_file), *arguments]) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\x00\x01\x02\xff" * 99, ""),
        (b"\xff\xfe bad", ""),
        (b"too short", "shorter than one sequence"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_one_error(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: str
) -> None:
    (tmp_path / "corpus.txt").write_bytes(content)
    code = main(["pretrain", "--config", str(config_file), f"data.path={tmp_path}/corpus.txt"])
    err = capsys.readouterr().err
    assert code == ExitCode.DATA, err
    assert err.startswith("error: ")
    assert words in err


def test_a_configuration_that_is_missing_or_no_yaml_is_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "--config", str(tmp_path / "none.yaml")]) == ExitCode.CONFIG
    (tmp_path / "bad.yaml").write_text("train: [")
    assert main(["pretrain", "--config", str(tmp_path / "bad.yaml")]) == ExitCode.CONFIG
    err = capsys.readouterr().err
    assert "no such file" in err
    assert "bad.yaml: line 1" in err


def test_settings_may_stand_before_between_and_after_the_options(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prepare", "seed=1", "--out", str(tmp_path / "a b"), "seed=2", "--config", str(config_file), "seed=3"]
    assert main(words) == ExitCode.OK
    assert f"next: python -m trainer pretrain data.path='{tmp_path}/a b'" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        main([*words, "--dry-runn"])
    assert caught.value.code == ExitCode.CONFIG


def test_from_text_to_text_with_three_commands(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "--config", str(config_file), "--out", str(tmp_path / "shards")]) == ExitCode.OK
    trained = ["pretrain", "--config", str(config_file), f"data.path={tmp_path}/shards", "train.max_steps=4"]
    assert main(trained) == ExitCode.OK
    out = capsys.readouterr().out
    assert re.search(r"done: step 4, val loss \d\.\d{4}, `.*step_00000004`", out)
    texts = []
    for seed in ("1", "1", "2"):
        assert main(["generate", str(tmp_path / "run"), "--prompt", "ROMEO:", "--seed", seed]) == ExitCode.OK
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith("ROMEO:")
    assert texts[0] == texts[1] != texts[2]


def test_generating_from_what_is_no_checkpoint_or_a_broken_one_is_one_error(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(finished_run / "data")]) == ExitCode.CHECKPOINT
    (checkpoint(finished_run, 12) / "model.safetensors").write_bytes(b"short")
    assert main(["generate", str(finished_run)]) == ExitCode.CHECKPOINT
    err = capsys.readouterr().err
    assert "there is no checkpoint at" in err
    assert "is broken" in err
    assert "Traceback" not in err


def test_a_reader_that_goes_away_does_not_end_a_training(config_file: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    training = subprocess.Popen(
        [sys.executable, "-m", "trainer", "pretrain", "--config", str(config_file)],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    os.close(reading)
    _, err = training.communicate(timeout=60)
    assert training.returncode == 0, err
    assert checkpoint(tmp_path / "run", 12).is_dir()
