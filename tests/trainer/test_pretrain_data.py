"""What the pretraining stage hands out: the same rows in the same order, however often it is interrupted."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.tiny import TINY, rows, tiny_config, train_tiny
from trainer.config import ConfigError, RunConfig, run_config
from trainer.data import Mixture, ShardSet, prepare_all
from trainer.errors import DataError
from trainer.models.model import GPT
from trainer.stages.pretrain import PretrainStage, TokenBatch

CPU = torch.device("cpu")
NOBODY = torch.nn.Identity()


def config_of(**data: Any) -> RunConfig:
    """The tiny configuration with 8 tokens a row, a global batch of 12 and micro-batches of 2."""
    model = {**TINY["model"], "max_seq_len": 8, "dropout": 0.0}
    train = {**TINY["train"], "global_batch_size": 12, "micro_batch_size": 2}
    data = {"tokenizer": {"kind": "bytes"}, "val_fraction": 0.2, **data}
    return run_config({**TINY, "model": model, "train": train, "data": data}, source="test")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of documents, all different; about 50 training rows of 8 tokens each."""
    folder = tmp_path_factory.mktemp("texts")
    for name, first in (("a", 100), ("b", 700)):
        texts = [" ".join(str(first + 3 * n + k) for k in range(n % 5 + 1)) for n in range(40)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


@pytest.fixture(scope="module")
def data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    weights = {str(corpus / "a.jsonl"): 0.6, str(corpus / "b.jsonl"): 0.4}
    return prepare_all(config_of(datasets=weights).data, tmp_path_factory.mktemp("out"))


def stage_of(data: Mixture | ShardSet, rank: int = 0, num_processes: int = 1, **settings: Any) -> PretrainStage:
    return PretrainStage(config_of(**settings), data, rank=rank, num_processes=num_processes, device=CPU)


def taken(stage: PretrainStage, batches: int) -> list[TokenBatch]:
    return list(itertools.islice(stage.batches(NOBODY), batches))


def ids(batches: Sequence[TokenBatch]) -> list[list[int]]:
    return [row for batch in batches for row in batch.ids_BT.tolist()]


def world_of(data: Mixture, num_processes: int, batches: int, state: dict[str, Any] | None = None) -> list[list[int]]:
    """The rows that so many processes take together, in the order of their samples."""
    found: dict[int, list[int]] = {}
    for rank in range(num_processes):
        stage = stage_of(data, rank, num_processes)
        if state:
            stage.load_state_dict(state)
        for batch in taken(stage, batches):
            found |= dict(zip(batch.sample_ids, batch.ids_BT.tolist(), strict=True))
    return [found[sample] for sample in sorted(found)]


def test_the_rows_are_the_same_for_any_number_of_processes(data: Mixture) -> None:
    whole = world_of(data, 1, 90)
    assert len(whole) == 180
    assert world_of(data, 2, 45) == whole
    assert world_of(data, 3, 30) == whole


def test_it_resumes_twice_in_the_second_epoch_and_with_other_world_sizes(data: Mixture) -> None:
    straight = ids(taken(stage_of(data), 120))
    assert data.parts[0].shards.train_tokens // 8 < 60, "the first source is in its second epoch by then"
    first = stage_of(data)
    seen = ids(taken(first, 41))
    state = json.loads(json.dumps(first.state_dict()))
    assert {key for key in state if key != "data"} == {"next_sample"}, "resume is one integer"
    seen += world_of(data, 3, 8, state)
    second = stage_of(data, 0, 3)
    second.load_state_dict(state)
    taken(second, 8)
    again = stage_of(data)
    again.load_state_dict(second.state_dict())
    seen += ids(taken(again, 55))
    assert seen == straight


def test_the_shares_that_were_realised_are_logged(corpus: Path, tmp_path: Path) -> None:
    names = [str(corpus / "a.jsonl"), str(corpus / "b.jsonl")]
    config = ["model.max_seq_len=8", "train.max_steps=5", "eval.every_steps=5", "checkpoint.every_steps=5"]
    train_tiny(tmp_path / "run", *config, "data.path=sample", f"data.datasets={{{names[0]}: 0.6, {names[1]}: 0.4}}")
    logged = [row for row in rows(tmp_path / "run") if "loss" in row]
    assert [row[f"share/{names[0]}"] for row in logged] == pytest.approx([5 / 8, 10 / 16, 14 / 24, 19 / 32, 24 / 40])
    assert all(row[f"share/{names[0]}"] + row[f"share/{names[1]}"] == pytest.approx(1) for row in logged)


def test_concatenated_rows_are_plain_and_keep_every_token(data: Mixture) -> None:
    batch = taken(stage_of(data), 1)[0]
    assert (batch.positions_BT, batch.documents_BT) == (None, None)
    assert torch.equal(batch.ids_BT[:, 1:], batch.labels_BT[:, :-1])
    assert batch.sample_ids == (0, 1)


def test_aligned_rows_each_begin_with_a_document(data: Mixture) -> None:
    tokenizer = data.load_tokenizer()
    stage = stage_of(data, rows="aligned")
    texts = [tokenizer.decode(row) for row in ids(taken(stage, 60))]
    assert all(text[:3].isdigit() and int(text[:3]) % 3 == 1 for text in texts), "every document begins with 100 + 3n"
    assert any("<|endoftext|>" in text for text in texts)
    (note,) = [note for note in stage.notes() if "begin with documents" in note]
    assert "% of the tokens do not fit and are dropped" in note


def test_isolated_rows_count_positions_anew_after_every_end_of_text(data: Mixture) -> None:
    end = data.load_tokenizer().eot_id
    batches = taken(stage_of(data, rows="isolated"), 30)
    assert ids(batches) == ids(taken(stage_of(data), 30)), "the rows themselves are the plain ones"
    for batch in batches:
        assert batch.positions_BT is not None
        assert batch.documents_BT is not None
        for row, positions, documents in zip(batch.ids_BT, batch.positions_BT, batch.documents_BT, strict=True):
            starts = [0, *[place for place, token in enumerate(row.tolist()) if token == end and place], len(row)]
            lengths = [b - a for a, b in itertools.pairwise(starts)]
            assert positions.tolist() == [place for length in lengths for place in range(length)]
            numbers = [number for number, length in enumerate(lengths) for _ in range(length)]
            assert (documents - documents[0]).tolist() == numbers


def test_a_document_is_predicted_as_if_it_stood_alone(data: Mixture) -> None:
    """The loss of an isolated row is the sum of the losses of its documents, each in a row of its own."""
    torch.manual_seed(1)
    stage = stage_of(data, rows="isolated")
    model = GPT(config_of().model).eval()
    end = stage.tokenizer.eot_id
    batch = next(batch for batch in taken(stage, 30) if end in batch.ids_BT[0, 2:6])
    whole = stage.loss(model, TokenBatch(*(part[:1] for part in (batch.ids_BT, batch.labels_BT)), *(
        part[:1] for part in (batch.positions_BT, batch.documents_BT) if part is not None
    ))).loss_sum  # fmt: skip
    row, labels = batch.ids_BT[0], batch.labels_BT[0]
    places = [0, *[n for n in range(1, 8) if row[n] == end], 8]
    alone = [model(row[None, a:b], labels[None, a:b]).loss_sum for a, b in itertools.pairwise(places)]
    assert whole.item() == pytest.approx(torch.stack(alone).sum().item(), rel=1e-5)
    assert whole.item() != pytest.approx(model(row[None], labels[None]).loss_sum.item(), rel=1e-3)


@pytest.mark.parametrize("layout", ["concat", "aligned", "isolated"])
def test_no_row_is_empty_overlong_or_masked(data: Mixture, layout: str) -> None:
    """Nothing that could make a loss without a unit, or an id that the model does not have."""
    stage = stage_of(data, rows=layout)
    for batch in [*taken(stage, 40), *stage.validation_batches()]:
        assert batch.ids_BT.shape == batch.labels_BT.shape == (len(batch.ids_BT), 8)
        assert batch.num_units == batch.ids_BT.numel()
        assert batch.labels_BT.min() >= 0
        assert batch.labels_BT.max() < 257


def test_shorter_rows_than_the_positions_can_be_asked_for_and_longer_ones_not(data: Mixture) -> None:
    assert taken(stage_of(data, seq_len=5), 1)[0].ids_BT.shape == (2, 5)
    with pytest.raises(ConfigError, match=r"data\.seq_len 9 is longer than the positions of the model, model\.max_s"):
        config_of(seq_len=9)


def test_more_processes_than_rows_are_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 45)
    data = prepare_all(config_of(path=str(tmp_path / "a.txt")).data, tmp_path / "out")
    stage_of(data, 3, 4)
    with pytest.raises(DataError, match="more processes than rows") as caught:
        stage_of(data, 4, 5)
    assert caught.value.why == "5 processes, and the training part has 4 rows"


def test_what_will_be_seen_too_often_is_said(data: Mixture, tmp_path: Path) -> None:
    notes = stage_of(data).notes()
    assert len(notes) == 2
    assert all("will be gone through" in note for note in notes)
    few = tiny_config(tmp_path, "train.max_steps=1", "schedule.warmup_steps=0", "model.max_seq_len=8")
    assert PretrainStage(few, data, rank=0, num_processes=1, device=CPU).notes() == []
