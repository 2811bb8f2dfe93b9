"""Packed files, JSON of any shape, columns and templates: each row is a document, found again by its place."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from trainer.config import DataConfig, TokenizerConfig
from trainer.config.sources import NAMED, canonical, hub_source
from trainer.data import encoding, prepare, row_files, shards
from trainer.data.columns import Columns
from trainer.data.documents import Document, Place
from trainer.data.encoding import PieceReader, cut_at
from trainer.data.readers import FileSource
from trainer.data.sources import find_corpus
from trainer.errors import DataError

BYTES = TokenizerConfig(kind="bytes")
ROWS = [{"text": f"row {n} ünïcode \n", "id": n} for n in range(50)]


def source(path: Path, column: str = "text", template: str = "") -> FileSource:
    return FileSource(find_corpus(path), Columns(column, template))


def texts(path: Path, column: str = "text", template: str = "") -> list[str]:
    return ["".join(document.texts) for document in source(path, column, template).documents()]


def refusal(path: Path, column: str = "text", template: str = "") -> DataError:
    with pytest.raises(DataError) as caught:
        texts(path, column, template)
    assert all("\n" not in line for line in (caught.value.what, caught.value.why, caught.value.hint))
    return caught.value


def zst(data: bytes) -> bytes:
    return bytes(pyarrow.compress(data, codec="zstd", asbytes=True))


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


PACKERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zst}


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("kind", [".txt", ".md", ".jsonl", ".json"])
def test_every_kind_is_read_packed_or_not(tmp_path: Path, kind: str, packed: str) -> None:
    contents = {".jsonl": lines(ROWS), ".json": json.dumps(ROWS, indent=1)}.get(kind, "plain ünïcode text")
    (tmp_path / f"A{kind}{packed}".upper()).write_bytes(PACKERS[packed](contents.encode()))
    wanted = [str(row["text"]) for row in ROWS] if "json" in kind else [contents]
    assert texts(tmp_path) == wanted
    last = list(source(tmp_path).documents())[-1]
    assert 0 < last.ends_at <= source(tmp_path).total_bytes


def test_a_packed_file_without_another_ending_is_text_and_packed_tables_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "notes.gz").write_bytes(gzip.compress(b"text"))
    (tmp_path / "table.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    (tmp_path / "archive.tar.gz").write_bytes(gzip.compress(b"tar"))
    assert texts(tmp_path) == ["text"]
    assert source(tmp_path).corpus.ignored == 2


def test_several_packed_parts_in_one_file_are_all_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one ") + gzip.compress(b"two"))
    (tmp_path / "b.txt.zst").write_bytes(zst(b"one ") + zst(b"two"))
    assert texts(tmp_path) == ["one two", "one two"]


@pytest.mark.parametrize("packed", [".gz", ".zst"])
@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"no archive at all"])
def test_a_packed_file_that_is_not_whole_is_refused(
    tmp_path: Path, packed: str, damage: Callable[[bytes], bytes]
) -> None:
    noise = random.Random(1).randbytes(20_000).hex()
    (tmp_path / f"a.jsonl{packed}").write_bytes(damage(PACKERS[packed](lines([{"text": noise}] * 9).encode())))
    error = refusal(tmp_path)
    assert error.what.endswith(f"is not a whole {packed} file")
    assert error.why
    assert " -t " in error.hint


@pytest.mark.parametrize("block", [1, 7, 100, 1 << 20])
@pytest.mark.parametrize(
    "written",
    [json.dumps(ROWS), json.dumps(ROWS, indent=2), lines(ROWS), "\n\n".join(json.dumps(r, indent=1) for r in ROWS)],
    ids=["list", "indented list", "lines", "objects"],
)
def test_json_of_any_shape_is_read_a_block_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, block: int
) -> None:
    monkeypatch.setattr(row_files, "BLOCK_BYTES", block)
    (tmp_path / "a.json").write_text("\ufeff" + written, encoding="utf-8")
    assert texts(tmp_path) == [row["text"] for row in ROWS]


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ('[{"text": "a"}, {"text": ', "row 2: not JSON"),
        ("[1, 2]", "row 1: not an object"),
        ('{"words": "a"}', "row 1: there is no column `text`"),
        ('{"text": ["a"]}', "row 1: the column `text` holds no text"),
        ("[" * 100_000, "is empty"),
        ('{"a":' * 100_000, "nested too deep"),
    ],
)
def test_json_that_is_no_rows_is_refused_with_its_row(tmp_path: Path, written: str, what: str) -> None:
    (tmp_path / "a.json").write_text(written)
    with pytest.raises(DataError) as caught:
        prepare(DataConfig(path=str(tmp_path / "a.json"), tokenizer=BYTES), tmp_path / "out")
    assert what in caught.value.what


def test_a_template_makes_one_text_of_several_columns(tmp_path: Path) -> None:
    rows = [{"q": "why?", "a": "{q}", "n": 1}, {"q": None, "a": "so"}, {"q": "", "a": None}]
    (tmp_path / "a.jsonl").write_text(lines(rows))
    assert texts(tmp_path, template="Q: {q}\nA: {a}\n") == ["Q: why?\nA: {q}\n", "Q: \nA: so\n", ""]
    assert "`data.template=" in refusal(tmp_path, template="{q} {b}").hint
    table = pyarrow.table({"q": ["why?"], "n": [1], "a": ["so"]})
    pyarrow.parquet.write_table(table, str(tmp_path / "a.parquet"))
    assert texts(tmp_path / "a.parquet", template="{a}{q}{a}") == ["sowhy?so"]
    assert "holds no text" in refusal(tmp_path / "a.parquet", template="{a}{n}").what


def test_reading_goes_on_from_any_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.jsonl").write_text(lines(ROWS[:5]))
    (tmp_path / "c.json").write_text(json.dumps(ROWS[5:9]))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", "y"]}), str(tmp_path / "d.parquet"))
    whole = list(source(tmp_path).documents())
    assert [document.begins for document in whole] == sorted(document.begins for document in whole)
    for number, document in enumerate(whole):
        later = [each.begins for each in source(tmp_path).documents(document.begins)]
        assert later == [each.begins for each in whole[number:]]
        assert [each.begins for each in source(tmp_path).documents(document.ends)] == later[1:]


def test_pieces_go_on_from_any_mark_and_count_what_has_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "pieces", lambda blocks: iter([c for block in blocks for c in block.split(",")]))
    (tmp_path / "a.txt").write_text("a,b,c")
    (tmp_path / "b.jsonl").write_text(lines([{"text": text} for text in ("", "d,e", " \n", "f")]))
    reader = PieceReader(source(tmp_path))
    whole = list(reader)
    assert "".join(piece.text + "|" * piece.ends_document for piece in whole) == "abc|de|f|"
    assert (reader.mark.samples, reader.mark.empty) == (5, 2)
    for number, piece in enumerate(whole):
        again = PieceReader(source(tmp_path), piece.after)
        assert list(again) == whole[number + 1 :]
        assert again.mark == reader.mark


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_so_many_samples_are_taken_and_no_more(tmp_path: Path, limit: int) -> None:
    (tmp_path / "b.jsonl").write_text(lines([{"text": text} for text in ("a", "", "b")]))
    config = DataConfig(path=str(tmp_path / "b.jsonl"), tokenizer=BYTES, max_samples=limit)
    made = prepare(config, tmp_path / "out")
    assert made.documents == [1, 1, 2, 2][limit - 1]
    assert made.index.empty_documents == [0, 1, 1, 1][limit - 1]


@pytest.mark.parametrize("limit", range(2, 12))
def test_tokens_are_cut_where_asked_and_every_document_is_closed(tmp_path: Path, limit: int) -> None:
    (tmp_path / "b.jsonl").write_text(lines([{"text": text} for text in ("abc", "d", "ef")]))
    config = DataConfig(path=str(tmp_path / "b.jsonl"), tokenizer=BYTES, max_tokens=limit)
    made = prepare(config, tmp_path / "out", shard_tokens=4)
    ids = made.load_tokenizer().decode(_stream(made)).replace("<|endoftext|>", "|")
    wanted = ["a|", "ab|", "abc|", "abc|", "abc|d|", "abc|d|", "abc|d|e|", "abc|d|ef|", "abc|d|ef|", "abc|d|ef|"]
    assert ids == wanted[limit - 2]


@pytest.mark.parametrize("limit", range(2, 24))
def test_where_tokens_are_cut_does_not_depend_on_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(encoding, "pieces", lambda blocks: iter([c for block in blocks for c in block.split(",")]))
    (tmp_path / "b.jsonl").write_text(lines([{"text": text} for text in ("ab,c,de", "f", "g,h,i", "", "jk,l")]))
    config = DataConfig(path=str(tmp_path / "b.jsonl"), tokenizer=BYTES, max_tokens=limit)
    whole = _stream(prepare(config, tmp_path / "whole"))
    monkeypatch.setattr(encoding, "BATCH_CHARACTERS", 1)
    assert _stream(prepare(config, tmp_path / "apart")) == whole
    assert whole[-1] == 256
    assert len(whole) <= limit


def _stream(made: shards.ShardSet) -> list[int]:
    import numpy as np

    out = np.empty(made.tokens, np.int64)
    made.copy_into(out, 0)
    return [int(i) for i in out]


def test_a_cut_goes_on_from_an_open_document() -> None:
    import numpy as np

    ids = np.array([5, 6, 9, 7])
    assert cut_at(ids, 1, 9, inside=True).tolist() == [9]
    assert cut_at(ids, 1, 9, inside=False).tolist() == []
    assert cut_at(ids, 4, 9, inside=True).tolist() == [5, 6, 9]


def test_a_disk_that_would_fill_up_is_refused_before_the_hub_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 10**9})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(DataError, match="no room for the tokens of `hf:allenai/c4:en`") as caught:
        prepare(DataConfig(path="c4", tokenizer=BYTES), tmp_path / "out")
    assert "156,000,000,000 tokens of 2 bytes" in caught.value.why
    assert "`data.max_tokens=250000000`" in caught.value.hint


def test_what_was_made_here_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text, some more text")
    bpe = TokenizerConfig(kind="bpe", vocab_size=270)
    first = prepare(DataConfig(path=str(tmp_path), tokenizer=bpe), tmp_path / "runs" / "data")
    again = prepare(DataConfig(path=str(tmp_path), tokenizer=bpe), tmp_path / "runs" / "other")
    assert first.identity == again.identity


@pytest.mark.parametrize("name", NAMED)
def test_a_name_is_a_dataset_and_its_path_is_a_path(name: str) -> None:
    assert hub_source(name) == NAMED[name]
    assert hub_source(f"./{name}") is None
    assert canonical(name) == f"hf:{NAMED[name].name}"


def test_a_name_takes_another_configuration_and_split() -> None:
    large = hub_source("fineweb:sample-100BT")
    assert large is not None
    assert (large.dataset, large.config, large.split, large.tokens) == (
        "HuggingFaceFW/fineweb",
        "sample-100BT",
        "train",
        100 * 10**9,
    )
    test = hub_source("wikitext:wikitext-2-raw-v1@test")
    assert test is not None
    assert (test.config, test.split) == ("wikitext-2-raw-v1", "test")
    assert test.begins_document == NAMED["wikitext"].begins_document


@pytest.mark.parametrize("path", ["", "texts", "C:/texts", "a:b", "fineweb.txt", "fineweb/x", "sample"])
def test_what_is_no_name_is_a_path(path: str) -> None:
    assert hub_source(path) is None


def test_a_document_of_lines_ends_where_the_next_one_begins() -> None:
    from trainer.data.hub import _joined

    lines = [" = A = \n", " text \n", " = = Part = = \n", " = B = \n"]
    rows = [(Place(0, n), line) for n, line in enumerate(lines)] + [(Place(1, 0), "of another file")]
    found = list(_joined(iter(rows), NAMED["wikitext"].begins_document))
    assert found == [
        Document((lines[0], lines[1], lines[2]), Place(0, 0), Place(0, 3)),
        Document((lines[3],), Place(0, 3), Place(0, 4)),
        Document(("of another file",), Place(1, 0), Place(1, 1)),
    ]
