"""Which tokens a row has, and when it is its turn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import DataConfig, TokenizerConfig
from trainer.data import ShardSet, TokenRows, order, prepare
from trainer.errors import DataError

# Written down once; a run that is resumed by another version must go on with the same rows.
ORDER_1337 = [5, 8, 6, 3, 1, 4, 0, 9, 7, 2]
ORDER_1337_EPOCH_1 = [0, 2, 4, 6, 8, 5, 9, 3, 1, 7]
ORDER_LARGE = [192053890608, 425270319654, 853789364629]

TEXT = "".join(chr(33 + i % 90) for i in range(1000))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """1,001 tokens in 15 shards; the last 100 are for validation."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "a.txt").write_text(TEXT)
    config = DataConfig(path=str(folder), tokenizer=TokenizerConfig(kind="bytes"), val_fraction=0.1)
    return prepare(config, folder / "out", shard_tokens=70)


def test_rows_are_windows_that_overlap_by_one_token(shards: ShardSet) -> None:
    train = TokenRows(shards, "train", 64)
    assert (train.tokens, train.num_rows) == (901, 14)
    rows = train.rows(np.arange(14))
    assert rows.dtype == np.int64
    assert [bytes(row.tolist()).decode() for row in rows] == [TEXT[i * 64 : i * 64 + 65] for i in range(14)]


def test_every_token_but_the_first_is_a_label_exactly_once(shards: ShardSet) -> None:
    rows = TokenRows(shards, "train", 9)
    assert rows.num_rows * 9 == shards.train_tokens - 1
    labels = rows.rows(np.arange(rows.num_rows))[:, 1:]
    assert bytes(labels.ravel().tolist()).decode() == TEXT[1:901]


def test_validation_is_the_end_of_the_corpus(shards: ShardSet) -> None:
    rows = TokenRows(shards, "val", 99)
    assert rows.num_rows == 1
    assert rows.rows(0).tolist() == [[*TEXT[901:].encode(), 256]]


def test_rows_come_in_the_order_asked_for(shards: ShardSet) -> None:
    train = TokenRows(shards, "train", 10)
    wanted = [5, 0, 89, 5]
    assert (train.rows(wanted) == np.stack([train.rows(i)[0] for i in wanted])).all()
    assert train.rows(np.array([], dtype=np.int64)).shape == (0, 11)


@pytest.fixture
def documents(tmp_path: Path) -> ShardSet:
    """Two dozen documents of 1 to 7 Greek letters in shards of 10 tokens; the last quarter is for validation."""
    texts = [chr(0x3B1 + n) * (n % 7 + 1) for n in range(24)]
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    config = DataConfig(path=str(tmp_path / "a.jsonl"), tokenizer=TokenizerConfig(kind="bytes"), val_fraction=0.25)
    return prepare(config, tmp_path / "out", shard_tokens=10)


@pytest.mark.parametrize("seq_len", [1, 3, 8, 20])
@pytest.mark.parametrize("split", ["train", "val"])
def test_aligned_rows_begin_with_the_first_document_after_the_row_before(
    documents: ShardSet, split: str, seq_len: int
) -> None:
    rows = TokenRows(documents, split, seq_len, aligned=True)  # type: ignore[arg-type]
    stream = np.empty(documents.tokens, np.int64)
    documents.copy_into(stream, 0)
    first, end = (0, documents.train_tokens) if split == "train" else (documents.train_tokens, documents.tokens)
    wanted, place = [], first
    while place + seq_len < end:
        if place == 0 or stream[place - 1] == documents.eot_id:
            wanted.append(stream[place : place + seq_len + 1].tolist())
            place += seq_len
        else:
            place += 1
    assert rows.rows(np.arange(rows.num_rows)).tolist() == wanted
    assert rows.dropped_tokens == end - first - 1 - len(wanted) * seq_len


def test_a_part_in_which_no_document_begins_has_no_aligned_row(shards: ShardSet) -> None:
    with pytest.raises(DataError, match="shorter than one sequence") as caught:
        TokenRows(shards, "val", 9, aligned=True)
    assert "one sequence that begins with a document needs 10" in caught.value.why


@pytest.mark.parametrize(("split", "has", "longest"), [("train", 901, 900), ("val", 100, 99)])
def test_a_corpus_shorter_than_one_sequence_is_refused(shards: ShardSet, split: str, has: int, longest: int) -> None:
    assert TokenRows(shards, split, longest).num_rows == 1  # type: ignore[arg-type]
    with pytest.raises(DataError, match="shorter than one sequence") as caught:
        TokenRows(shards, split, longest + 1)  # type: ignore[arg-type]
    assert f"has {has} tokens, one sequence needs {has + 1}" in caught.value.why
    assert f"`model.max_seq_len={longest}`" in caught.value.hint


def test_an_id_beyond_the_vocabulary_is_refused_before_a_gpu_sees_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    config = DataConfig(path=str(tmp_path), tokenizer=TokenizerConfig(kind="bytes"))
    made = prepare(config, tmp_path / "out")
    with (made.root / made.index.folder / "tokens_00000.bin").open("r+b") as file:
        file.seek(256 + 2 * 20)
        file.write(b"\xff\xff")
    rows = TokenRows(made, "train", 8)
    assert rows.rows([0, 1]).max() < 257
    with pytest.raises(DataError, match="are damaged") as caught:
        rows.rows([2])
    assert "id 65535" in caught.value.why


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**70), num_rows=st.integers(1, 3000), epoch=st.integers(0, 2**30))
def test_an_epoch_is_a_permutation(seed: int, num_rows: int, epoch: int) -> None:
    rows = order(seed, np.arange(epoch * num_rows, (epoch + 1) * num_rows), num_rows)
    assert rows.dtype == np.int64
    assert (np.sort(rows) == np.arange(num_rows)).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32), num_rows=st.integers(1, 10**12), start=st.integers(0, 2**50), world=st.integers(1, 9)
)
def test_the_order_does_not_depend_on_how_it_is_asked_for(seed: int, num_rows: int, start: int, world: int) -> None:
    indices = np.arange(start, start + 72)
    whole = order(seed, indices, num_rows)
    assert (np.concatenate([order(seed, part, num_rows) for part in np.array_split(indices, world)]) == whole).all()
    by_rank = [order(seed, indices[rank::world], num_rows) for rank in range(world)]
    assert all((part == whole[rank::world]).all() for rank, part in enumerate(by_rank))
    assert order(seed, int(indices[7]), num_rows) == whole[7]


def test_the_order_never_changes_between_versions() -> None:
    assert order(1337, np.arange(10), 10).tolist() == ORDER_1337
    assert order(1337, np.arange(10, 20), 10).tolist() == ORDER_1337_EPOCH_1
    assert order(1, [0, 1, 10**15], 10**12).tolist() == ORDER_LARGE


def test_epochs_and_seeds_differ() -> None:
    n = 1000
    epochs = [order(seed, np.arange(epoch * n, (epoch + 1) * n), n) for seed in range(3) for epoch in range(3)]
    same = [int((a == b).sum()) for i, a in enumerate(epochs) for b in epochs[:i]]
    assert max(same) < 10  # two random permutations agree in one place on average


@pytest.mark.parametrize("num_rows", [2, 3, 5, 8, 33])
def test_every_row_comes_everywhere_equally_often(num_rows: int) -> None:
    epochs = 20_000
    rows = order(7, np.arange(epochs * num_rows), num_rows).reshape(epochs, num_rows)
    counts = np.stack([np.bincount(rows[:, place], minlength=num_rows) for place in range(num_rows)])
    expected = epochs / num_rows
    freedom = (num_rows - 1) ** 2
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_all_orders_of_four_rows_are_used() -> None:
    rows = order(3, np.arange(4 * 6000), 4).reshape(-1, 4)
    seen = Counter(map(tuple, rows.tolist()))
    assert len(seen) == 24
    assert max(seen.values()) < 2 * min(seen.values())


def test_neighbours_are_not_kept_together() -> None:
    rows = order(5, np.arange(100_000), 100_000)
    steps = np.abs(np.diff(rows))
    assert (steps == 1).mean() < 0.0005
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 0.02
