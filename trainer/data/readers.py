"""What is written in a corpus file: documents, in parts that need not fit into memory together.

A .txt or .md file is one document, a row of .jsonl or .parquet is one. Text is
UTF-8; what is not is refused with the file and the byte, never guessed at.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from trainer.data.sources import Corpus
from trainer.errors import DataError
from trainer.quoting import pasteable, shown

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Document:
    """One text, closed by end-of-text when it is tokenized."""

    texts: Iterable[str]
    """Its parts in order; they can be read once, and only before the next document is asked for."""
    begins_at: int
    """How far into the corpus it begins and ends, in bytes, for progress."""
    ends_at: int


def documents(corpus: Corpus, text_column: str) -> Iterator[Document]:
    """Every document of the corpus, in order. Raises DataError for what cannot be read as text."""
    before = 0
    for file in corpus.files:
        suffix = file.path.suffix.lower()
        if suffix == ".jsonl":
            rows = _jsonl(file.path, text_column)
        elif suffix == ".parquet":
            rows = _parquet(file.path, file.bytes, text_column)
        else:
            yield Document(_text(file.path), before, before + file.bytes)
            rows = iter(())
        begins_at = before
        for text, offset in rows:
            yield Document((text,), begins_at, before + offset)
            begins_at = before + offset
        before += file.bytes


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"cannot read {shown(path)}", why=error.strerror or str(error)) from error


def _text(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with _opened(path) as file:
        while data := file.read(BLOCK_BYTES):
            text = _decoded(decoder, data, path, offset)
            yield text.removeprefix("\ufeff") if offset == 0 else text
            offset += len(data)
    yield _decoded(decoder, b"", path, offset)


def _decoded(decoder: codecs.IncrementalDecoder, data: bytes, path: Path, offset: int) -> str:
    """The text of `data`, which stands at `offset`. Raises DataError where it is binary or not UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") and offset == 0:
        raise _wrong_encoding(path, 0, "it begins like UTF-16", "UTF-16")
    if (zero := data.find(b"\0")) >= 0:
        raise DataError(
            f"{shown(path)} is binary, not text",
            why=f"byte {offset + zero} is NUL",
            hint=f"`file {pasteable(path)}` tells what it is; take it out of the corpus",
        )
    try:
        return decoder.decode(data, final=not data)
    except UnicodeDecodeError as error:
        pending = len(error.object) - len(data)  # the start of a character, kept from the block before
        raise _wrong_encoding(path, offset - pending + error.start, error.reason, "WINDOWS-1252") from error


def _wrong_encoding(path: Path, offset: int, reason: str, likely: str) -> DataError:
    name = pasteable(path)
    return DataError(
        f"{shown(path)} is not UTF-8 text",
        why=f"byte {offset}: {reason}",
        hint=f"if it is {likely}: `iconv -f {likely} -t UTF-8 {name} > converted && mv converted {name}`",
    )


def _jsonl(path: Path, column: str) -> Iterator[tuple[str, int]]:
    """The text of each row, and where the row ends in the file."""
    offset = 0
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            decoder = codecs.getincrementaldecoder("utf-8")()
            text = _decoded(decoder, line, path, offset) + _decoded(decoder, b"", path, offset + len(line))
            offset += len(line)
            text = text.removeprefix("\ufeff") if number == 1 else text
            if text.strip():
                yield _field(text, column, path, number), offset


def _field(line: str, column: str, path: Path, number: int) -> str:
    where = f"{shown(path)}, line {number}"
    hint = f"`sed -n {number}p {pasteable(path)}`"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON", why=str(error).replace("\n", " "), hint=hint) from error
    except RecursionError as error:
        raise DataError(f"{where}: JSON nested too deep", hint=hint) from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: not an object", why='a row must look like {"text": "…"}', hint=hint)
    if column not in row:
        raise _missing_column(where, column, list(row))
    return _text_or_nothing(row[column], column, where, hint)


def _text_or_nothing(value: Any, column: str, where: str, hint: str) -> str:
    """The text of a field; null counts as empty, as it does in most published datasets."""
    if value is None or isinstance(value, str):
        return value or ""
    raise DataError(f"{where}: the column `{column}` holds no text", why=f"it is a {type(value).__name__}", hint=hint)


def _missing_column(where: str, column: str, columns: list[str]) -> DataError:
    return DataError(
        f"{where}: there is no column `{column}`",
        why="the columns are " + (", ".join(f"`{name}`" for name in columns[:20]) or "none at all"),
        hint=f"`data.text_column={columns[0] if len(columns) == 1 else 'NAME'}`",
    )


def _parquet(path: Path, size: int, column: str) -> Iterator[tuple[str, int]]:
    """The text of each row, and roughly where it ends in the file."""
    pyarrow = _pyarrow()
    with _opened(path) as file:
        try:
            parquet = pyarrow.parquet.ParquetFile(file)
            _require_text_column(parquet.schema_arrow, path, column)
            rows_done, rows = 0, max(parquet.metadata.num_rows, 1)
            for batch in parquet.iter_batches(batch_size=1024, columns=[column]):
                for text in batch.column(0).to_pylist():
                    rows_done += 1
                    yield text or "", size * rows_done // rows
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
            raise DataError(
                f"{shown(path)} is not a whole parquet file",
                why=(str(error).splitlines() or [type(error).__name__])[0],
                hint="fetch it again: it is truncated or damaged",
            ) from error


def _require_text_column(schema: Any, path: Path, column: str) -> None:
    if column not in schema.names:
        raise _missing_column(shown(path), column, schema.names)
    kind = str(schema.field(column).type)
    if not any(kind.startswith(text) for text in ("string", "large_string", "dictionary<values=string", "null")):
        raise DataError(
            f"{shown(path)}: the column `{column}` holds no text",
            why=f"it is of type {kind}; the columns are {', '.join(f'`{name}`' for name in schema.names[:20])}",
            hint="`data.text_column=NAME`",
        )


def _pyarrow() -> Any:
    try:
        import pyarrow  # late: heavy, and only parquet needs it
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "reading .parquet needs the package pyarrow", why=str(error), hint="`pip install pyarrow`"
        ) from error
    return pyarrow
