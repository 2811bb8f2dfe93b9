"""Rows for the stages after pretraining: by the names of known datasets, or by a mapping of any dataset's columns."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.hub import Hub, running_hub
from tests.doubles.hub_reader import HubReader, hub_reader
from tests.trainer.test_hub import parquet
from trainer.chats.renaming import mapping_text, renamed
from trainer.chats.rows import read_rows
from trainer.config import ConfigError, DataConfig, RunConfig, run_config
from trainer.config.mapping import ColumnMapping
from trainer.errors import DataError

pytestmark = pytest.mark.timeout(600)

TINY = ("model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.max_seq_len=96", "data.tokenizer.kind=bytes")
SHORT = ("train.max_steps=1", "train.global_batch_size=2", "train.micro_batch_size=2", "schedule.warmup_steps=0")


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as served:
        served.publish_dataset("tatsu-lab/alpaca", {"data/train-00000.parquet": parquet(**alpaca_columns())})
        pairs = "".join(json.dumps(row) + "\n" for row in hh_rows())
        served.publish_dataset("Anthropic/hh-rlhf", {"harmless-base/train.jsonl.gz": gzip.compress(pairs.encode())})
        served.publish_dataset("some/school", {"train.parquet": parquet(**school_columns())}, config="main")
        yield served


@pytest.fixture(scope="module")
def reader(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubReader]:
    with hub_reader(hub.endpoint, tmp_path_factory.mktemp("home")) as reading:
        yield reading


def alpaca_columns() -> dict[str, list[str]]:
    count = range(30)
    return {
        "instruction": [f"Add one to {i}." for i in count],
        "input": ["" if i % 2 else "in words" for i in count],
        "output": [str(i + 1) for i in count],
        "text": ["Below is an instruction" for _ in count],
    }


def hh_rows() -> list[dict[str, str]]:
    asked = [f"\n\nHuman: is {i} odd?\n\nAssistant:" for i in range(30)]
    return [{"chosen": f"{each} it may be", "rejected": f"{each} no"} for each in asked]


def school_columns() -> dict[str, list[str]]:
    """Its own `messages` are a trap: they are text, and no conversation."""
    count = range(30)
    return {
        "question": [f"{i} + 1?" for i in count],
        "solution": [str(i + 1) for i in count],
        "messages": ["none" for _ in count],
    }


def trained(reader: HubReader, stage: str, out_dir: Path, *overrides: str) -> str:
    code, said = reader.trainer(stage, *TINY, *SHORT, f"out_dir={out_dir}", *overrides)
    assert code == 0, said
    return said


def test_known_datasets_have_names_and_what_was_sniffed_is_said(reader: HubReader, tmp_path: Path) -> None:
    said = trained(reader, "sft", tmp_path / "sft", "data.path=alpaca")
    assert "conversations `alpaca`: `alpaca` rows as `transcript`, 30 rows" in said
    said = trained(reader, "orpo", tmp_path / "orpo", "data.path=hh-rlhf")
    assert "pairs `hh-rlhf`: `dialogues` rows as `transcript`, 30 rows" in said
    code, said = reader.trainer("show", "hh-rlhf", "--rows", "1")
    assert code == 0
    assert "chosen:   User: is 0 odd?\nAssistant:⟦ it may be<|endoftext|>⟧" in said


def test_any_dataset_is_trained_on_with_a_mapping(reader: HubReader, tmp_path: Path) -> None:
    mapping = "data.mapping={prompt: question, completion: solution}"
    said = trained(reader, "sft", tmp_path / "sft", "data.path=hf:some/school:main", mapping)
    assert "`hf:some/school:main` (question as prompt, solution as completion): `prompt` rows" in said
    asks = "data.mapping={prompt: question, answer: solution}"
    functions = "reward.functions=[{use: exact_match}]"
    said = trained(
        reader, "rgpo", tmp_path / "rgpo", "data.path=hf:some/school:main", asks, functions, "rollout.max_tokens=4"
    )
    assert "(question as prompt, solution as answer): `prompt` rows, 30 rows" in said
    wrong = ("data.path=hf:some/school:main", "data.mapping.prompt=questions")
    code, said = reader.trainer("sft", *TINY, *wrong, f"out_dir={tmp_path / 'wrong'}")
    assert code == 3
    assert "there is no column `questions` (did you mean `question`?)" in said
    assert "the columns are `question`, `solution`, `messages`" in said
    assert "data.mapping.prompt=COLUMN" in said


def config_of(path: Path, mapping: Mapping[str, str]) -> DataConfig:
    return run_config({"data": {"path": str(path), "mapping": dict(mapping)}}, source="test").data


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_local_files_take_the_same_mapping(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"school.{kind}"
    columns = school_columns()
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    path.write_bytes(parquet(**columns) if kind == "parquet" else "\n".join(map(json.dumps, rows)).encode())
    found = list(read_rows(config_of(path, {"prompt": "question", "completion": "solution"})))
    assert found[3] == {"prompt": "3 + 1?", "completion": "4"}
    assert len(found) == 30
    with pytest.raises(DataError) as caught:
        list(read_rows(config_of(path, {"chosen": "better", "rejected": "solution"})))
    assert "there is no column `better`" in caught.value.what
    assert "`question`, `solution`, `messages`" in caught.value.why


@pytest.mark.parametrize(
    ("row", "mapping", "found"),
    [
        # what is not mapped stays, for reward functions
        ({"q": "x", "level": 3}, {"prompt": "q"}, {"prompt": "x", "level": 3}),
        # two names may change places
        (
            {"prompt": "a", "completion": "b"},
            {"prompt": "completion", "completion": "prompt"},
            {"prompt": "b", "completion": "a"},
        ),
        # a mapped name wins over a column of that name
        ({"prompt": "kind", "q": "x"}, {"prompt": "q"}, {"prompt": "x"}),
        # a pair is not taken for a prompt, nor the other way round
        (
            {"prompt": "p", "good": "a", "bad": "b"},
            {"chosen": "good", "rejected": "bad"},
            {"prompt": "p", "chosen": "a", "rejected": "b"},
        ),
        (
            {"chosen": "a", "rejected": "b", "messages": "m", "q": "x"},
            {"prompt": "q", "answer": "messages"},
            {"prompt": "x", "answer": "m", "chosen": "a", "rejected": "b"},
        ),
        ({"messages": "m", "q": "x"}, {"prompt": "q"}, {"prompt": "x"}),
    ],
)
def test_a_row_under_a_mapping(row: dict[str, Any], mapping: dict[str, str], found: dict[str, Any]) -> None:
    assert renamed(row, ColumnMapping(**mapping)) == found
    assert mapping_text(ColumnMapping()) == ""


def test_names_that_are_of_no_format_are_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match="no format of rows has `instruction` and `chosen`"):
        run_config({"data": {"mapping": {"instruction": "a", "chosen": "b"}}}, source="test")
    with pytest.raises(ConfigError, match="did you mean `prompt`"):
        run_config({"data": {"mapping": {"promt": "a"}}}, source="test")


@pytest.mark.parametrize("key", ["text_column=body", "template='Q: {q}'", "datasets={sample: 0.5, c4: 0.5}"])
def test_what_only_a_corpus_is_read_by_is_not_passed_over(key: str) -> None:
    config: RunConfig = run_config({}, source="test", overrides=[f"data.{key}"])
    with pytest.raises(DataError, match="is for pretraining"):
        list(read_rows(config.data))
