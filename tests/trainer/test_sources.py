"""Which files are the corpus, what is written in them, and one clear error for everything else."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.trainer.unprivileged import open_folder, unprivileged
from trainer.data import text_files
from trainer.data.columns import Columns
from trainer.data.readers import FileSource
from trainer.data.sources import corpus_path, find_corpus
from trainer.errors import DataError
from trainer.quoting import pasteable, shown

HOSTILE = ["a b", "it's", 'say "x"', "new\nline", "$(touch x)", "-rf", "ünïcode", "\udcff", "back\\slash", "a;b|c&d"]


def texts(path: Path, column: str = "text") -> list[str]:
    source = FileSource(find_corpus(path), Columns(column))
    return ["".join(document.texts) for document in source.documents()]


def refusal(path: Path, column: str = "text") -> DataError:
    with pytest.raises(DataError) as caught:
        texts(path, column)
    assert all("\n" not in line for line in (caught.value.what, caught.value.why, caught.value.hint))
    return caught.value


def write_parquet(path: Path, **columns: list[object]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), str(path))
    return path


def test_the_sample_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert texts(corpus_path("sample"))[0].startswith("Hamlet\n")


def test_a_folder_is_read_in_one_order_whatever_the_file_system_says(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/B.jsonl", "C.TXT", "a.txt", "deep/er/still.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": name}) if name.endswith("jsonl") else name, encoding="utf-8")
    assert texts(tmp_path) == ["C.TXT", "a.txt", "a/B.jsonl", "a/z.md", "b.txt", "deep/er/still.txt"]


def test_hidden_files_and_other_kinds_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    for name in ("a.txt", "model.bin", "README", ".hidden.txt", ".git/x.txt"):
        (tmp_path / name).write_text("x")
    corpus = find_corpus(tmp_path)
    assert [file.name for file in corpus.files] == ["a.txt"]
    assert corpus.ignored == 2


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("linked")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "data").symlink_to(tmp_path / "elsewhere")
    (corpus / "circle").symlink_to(corpus)
    assert texts(corpus) == ["linked"]


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "a.txt").write_text("x")
    assert texts(tmp_path) == ["x"]


@pytest.mark.parametrize("name", HOSTILE)
def test_any_file_name_is_read_and_shown_on_one_line(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / f"{name}.txt").write_text("text")
    (folder / f"{name}.jsonl").write_text('{"text": "row"}')
    write_parquet(tmp_path / "x", text=["column"]).rename(folder / f"{name}.parquet")
    assert sorted(texts(folder)) == ["column", "row", "text"]
    (folder / f"{name}.txt").write_bytes(b"\xff")
    assert refusal(folder / f"{name}.txt").why == "byte 0: invalid start byte"


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_pasteable_reaches_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("reached")
    command = f"cat {pasteable(tmp_path / name)}"
    assert "\n" not in command
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, cwd=tmp_path)
    assert done.stdout == b"reached"
    assert os.listdir(tmp_path) == [name]


def test_what_is_shown_can_be_printed_and_read_by_eyes() -> None:
    assert shown("plays/ünïcode $(x)") == "`plays/ünïcode $(x)`"
    assert shown("a\nb\udcff\x1b") == "`a\\nb\\xff\\x1b`"


def test_a_missing_path_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = refusal(Path("plays"))
    assert error.what == "there is no corpus at `plays`"
    assert str(tmp_path) in error.why
    assert "data.path=sample" in error.hint


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_refused(path: str) -> None:
    with pytest.raises(DataError, match=r"data\.path is empty"):
        corpus_path(path)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "a.txt/b"])
def test_a_path_that_cannot_be_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    assert refusal(corpus_path(path)).what


def test_an_unknown_home_is_only_a_missing_path() -> None:
    assert refusal(corpus_path("~nobody-of-this-name/x")).what.startswith("there is no corpus at")


@pytest.mark.parametrize("what", ["", "plays", "plays/a.txt"])
def test_what_may_not_be_read_is_said(what: str) -> None:
    with open_folder() as folder:
        (folder / "plays").mkdir()
        (folder / "plays" / "a.txt").write_text("x")
        os.chmod(folder / what, 0)
        with unprivileged():
            for asked in (folder / "plays", folder / "plays" / "a.txt"):
                assert "permission denied" in refusal(asked).why.lower()
        os.chmod(folder / what, 0o755)


def test_a_link_to_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("gone")
    assert refusal(tmp_path).what.endswith("a.txt` is a link to nothing")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plays.pdf").write_text("x")
    error = refusal(tmp_path / "plays.pdf")
    assert ".txt, .md, .json, .jsonl, .parquet" in error.why
    assert error.hint.startswith("if it is plain text: `cp ")


def test_a_folder_without_text_says_what_it_has(tmp_path: Path) -> None:
    assert "the folder is empty" in refusal(tmp_path).why
    for name in ("a.csv", "b.csv", "c"):
        (tmp_path / name).write_text("x")
    assert "the folder has 2 with .csv, 1 with no ending" in refusal(tmp_path).why


def test_text_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo\n\n é \ufeff".encode())
    assert texts(tmp_path) == ["one\r\ntwo\n\n é \ufeff"]


def test_a_large_file_is_read_in_blocks_that_may_split_a_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "BLOCK_BYTES", 7)
    text = "日本語🙂é" * 20
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (document,) = FileSource(find_corpus(tmp_path), Columns("text")).documents()
    blocks = list(document.texts)
    assert len(blocks) > 30
    assert "".join(blocks) == text


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize(
    ("content", "byte"), [(b"abc\xe9 d", 3), (b"\xff", 0), ("日".encode() + b"\xe6\x97", 3), (b"ab\xed\xa0\x80", 2)]
)
def test_what_is_not_utf8_is_refused_with_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, content: bytes, byte: int
) -> None:
    monkeypatch.setattr(text_files, "BLOCK_BYTES", block_bytes)
    (tmp_path / "a.txt").write_bytes(content)
    error = refusal(tmp_path)
    assert error.what == f"{shown(tmp_path / 'a.txt')} is not UTF-8 text"
    assert error.why.startswith(f"byte {byte}: ")
    assert "iconv -f WINDOWS-1252 -t UTF-8" in error.hint


def test_utf16_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello", encoding="utf-16")
    assert "iconv -f UTF-16 -t UTF-8" in refusal(tmp_path).hint


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl"])
def test_a_binary_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x7fELF\x02\x01\x01\x03\0\0\xff")
    error = refusal(tmp_path)
    assert error.what == f"{shown(tmp_path / name)} is binary, not text"
    assert error.why == "byte 8 is NUL"


def test_rows_are_documents_and_null_is_empty(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": "two\nlines", "more": 1}, {"text": None}, {"text": "é"}]
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "a.jsonl").write_text(f"\ufeff{lines}\n\n", encoding="utf-8")
    write_parquet(tmp_path / "b.parquet", text=["three", None, "four"], other=[1, 2, 3])
    assert texts(tmp_path) == ["one", "two\nlines", "", "é", "three", "", "four"]


def test_progress_grows_up_to_the_size_of_the_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n')
    write_parquet(tmp_path / "c.parquet", text=["four"] * 3)
    corpus = find_corpus(tmp_path)
    found = [(document.begins_at, document.ends_at) for document in FileSource(corpus, Columns("text")).documents()]
    assert found == sorted(found)
    assert [begin for begin, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == corpus.total_bytes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "not JSON"),
        ("[1]", "not an object"),
        ('{"text": 3}', "the column `text` holds no text"),
        ('{"text": ["a"]}', "the column `text` holds no text"),
        ('{"body": "a", "id": 3}', "there is no column `text`"),
        ("{}", "there is no column `text`"),
        ("[" * 100_000, "JSON nested too deep"),
        ("9" * 5000, "not JSON"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "fine"}}\n\n{line}\n')
    assert refusal(tmp_path).what == f"{shown(tmp_path / 'a.jsonl')}, line 3: {message}"


def test_bytes_in_a_row_that_are_no_utf8_are_refused_with_their_place_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xe9"}\n')
    assert refusal(tmp_path).why.startswith("byte 24: ")


def test_a_missing_column_lists_the_columns_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "a", "id": 3}\n')
    assert refusal(tmp_path).why == "the columns are `body`, `id`"
    assert texts(tmp_path, "body") == ["a"]
    (tmp_path / "a.jsonl").unlink()
    write_parquet(tmp_path / "a.parquet", content=["a"])
    error = refusal(tmp_path)
    assert error.why == "the columns are `content`"
    assert error.hint == "`data.text_column=content`"
    assert texts(tmp_path, "content") == ["a"]


def test_a_column_that_holds_no_text_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", text=[1, 2])
    error = refusal(tmp_path)
    assert error.what.endswith("the column `text` holds no text")
    assert "int64" in error.why


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_parquet_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_parquet(tmp_path / "a.parquet", text=["some text"] * 1000)
    path.write_bytes(path.read_bytes()[:keep])
    assert refusal(tmp_path).what == f"{shown(path)} is not a whole parquet file"


def test_a_parquet_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": [f"some text {i}" for i in range(5000)]})
    pyarrow.parquet.write_table(table, path, compression="gzip", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[2000:2100] = bytes(100)
    path.write_bytes(data)
    assert refusal(tmp_path).what == f"{shown(path)} is not a whole parquet file"
