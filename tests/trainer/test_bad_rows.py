"""What can be got wrong after pretraining, by the real command: what, why and hint, the exit code, and no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.foreign import write_folder
from trainer.cli import main
from trainer.errors import ExitCode

SETTINGS = {
    "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 64},
    "data": {"tokenizer": {"kind": "bytes"}},
    "train": {"max_steps": 2, "global_batch_size": 8, "micro_batch_size": 4, "device": "cpu", "precision": "fp32"},
    "schedule": {"warmup_steps": 0},
    "rollout": {"max_tokens": 8, "patience": 1},
    "grpo": {"group_size": 4},
    "reward": {"timeout_seconds": 120.0},
    "eval": {"num_batches": 1},
}
CALL = {"function": {"name": "weather", "arguments": "{city: Bern"}}
ASKED = {"role": "user", "content": "q"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("bad")
    write_folder(found / "policy")
    write_folder(found / "other", seed=1)
    return found


@pytest.fixture
def tried(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The exit code of a stage, and what it said on stderr."""

    def run(stage: str, rows: Sequence[Mapping[str, Any]], *overrides: str) -> tuple[int, str]:
        data, config = tmp_path / "rows.jsonl", tmp_path / "train.yaml"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config.write_text(json.dumps({**SETTINGS, "out_dir": str(tmp_path / "run")}))
        code = main([stage, "--config", str(config), f"data.path={data}", *overrides])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return code, said

    return run


PAIR = {"prompt": "a", "chosen": "yes", "rejected": "no"}
ROWS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("orpo", {**PAIR, "rejected": "yes"}, ("20 bad", "row 1: `chosen` and `rejected` are equal")),
    ("orpo", {"prompt": "a", "chosen": "yes"}, ("row 1: it has no `rejected`",)),
    ("orpo", {**PAIR, "rejected": None}, ("row 1: it has no `rejected`",)),
    ("orpo", {**PAIR, "rejected": " "}, ("`rejected` says nothing",)),
    ("orpo", {**PAIR, "chosen": "yes " * 40}, ("20 an answer too long", "data.seq_len=")),
    ("sft", {"prompt": "a" * 90, "completion": "b"}, ("20 too long: nothing to learn is left", "data.seq_len=")),
    ("sft", {"messages": [ASKED, {"role": "assistant", "tool_calls": [CALL]}]}, ("arguments of `weather`: not JSON",)),
    ("sft", PAIR, ("chosen and rejected are a pair", "`dpo`, `orpo` and `reward`")),
    ("sft", {"question": "a", "reply": "b"}, ("`question`, `reply`", "data.mapping.prompt=COLUMN")),
    ("rgpo", {"prompt": "a" * 90}, ("20 too long", "data.seq_len=")),
]


@pytest.mark.parametrize(("stage", "row", "words"), ROWS)
def test_rows_that_teach_nothing_are_refused_with_the_first_of_them(
    stage: str, row: dict[str, Any], words: tuple[str, ...], tried: Callable[..., tuple[int, str]]
) -> None:
    code, said = tried(stage, [row] * 20, "reward.functions=[{use: length}]")
    assert code == ExitCode.DATA
    assert [each for each in words if each not in said] == []


REFERENCES: list[tuple[str, tuple[str, ...], ExitCode, str]] = [
    ("dpo", (), ExitCode.CONFIG, "model.init_from: is empty, and the reference is where a policy begins"),
    ("dpo", ("model.init_from=./nowhere",), ExitCode.CHECKPOINT, "`./nowhere`: there is no such folder"),
    ("dpo", ("model.init_from=hf:./nowhere",), ExitCode.CHECKPOINT, "there is no folder `nowhere`"),
    ("grpo", ("grpo.beta=0.1",), ExitCode.CONFIG, "grpo.beta: is not 0"),
    ("rgpo", ("rgpo.beta=0.1", "model.init_from=./nowhere"), ExitCode.CHECKPOINT, "there is no such folder"),
    ("ppo", ("reward.functions=[{use: 'model:./nowhere'}]",), ExitCode.CHECKPOINT, "no checkpoint at `nowhere`"),
    ("ppo", ("reward.functions=[{use: 'model:hf:./nowhere'}]",), ExitCode.CHECKPOINT, "there is no folder `nowhere`"),
    ("ppo", ("reward.functions=[]",), ExitCode.CONFIG, "reward.functions: is empty"),
]


@pytest.mark.parametrize(("stage", "overrides", "code", "words"), REFERENCES)
def test_a_model_that_is_not_there_is_named(
    stage: str, overrides: tuple[str, ...], code: ExitCode, words: str, tried: Callable[..., tuple[int, str]]
) -> None:
    rows = [PAIR] * 20 if stage == "dpo" else [{"prompt": f"n {i}"} for i in range(20)]
    found, said = tried(stage, rows, "reward.functions=[{use: length}]", *overrides)
    assert words in said
    assert found == code


def beginning_from(policy: Path) -> tuple[str, ...]:
    return (f"model={{init_from: 'hf:{policy}'}}", f"data.tokenizer={{path: '{policy}'}}", "data.seq_len=64")


def test_a_policy_without_a_chat_template_is_refused(folder: Path, tried: Callable[..., tuple[int, str]]) -> None:
    given = (*beginning_from(folder / "policy"), "sft.template=hub")
    code, said = tried("sft", [{"prompt": "a", "completion": "b"}] * 20, *given)
    assert code == ExitCode.DATA
    assert "the policy brings no chat template" in said
    assert "sft.template=transcript" in said


def test_an_adapter_does_not_go_on_beside_another_base(
    folder: Path, tmp_path: Path, tried: Callable[..., tuple[int, str]]
) -> None:
    base = shutil.copytree(folder / "policy", tmp_path / "base")
    given = (*beginning_from(base), "lora.rank=2")
    rows = [{"prompt": f"n {i}", "completion": "b"} for i in range(20)]
    assert tried("sft", rows, *given)[0] == ExitCode.OK
    shutil.copyfile(folder / "other" / "model.safetensors", base / "model.safetensors")
    code, said = tried("sft", rows, *given, "train.max_steps=4")
    assert code == ExitCode.CHECKPOINT
    assert "belongs to another base" in said
    assert "bring back the base it was trained beside" in said
