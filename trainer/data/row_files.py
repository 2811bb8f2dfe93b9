"""Rows of .jsonl, .json and .parquet files as texts, each with how far into the file it ends."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.data.columns import Columns
from trainer.data.compressed import imported_pyarrow, opened
from trainer.data.text_files import BLOCK_BYTES, decoded
from trainer.errors import DataError
from trainer.quoting import pasteable, shown

Rows = Iterator[tuple[str, int]]
"""The text of each row, and where the row ends in the file, in bytes."""


def jsonl_rows(path: Path, columns: Columns) -> Rows:
    """Each line is an object. Empty lines are no rows."""
    with opened(path) as (stream, file):
        offset = 0
        for number, line in enumerate(stream, start=1):
            decoder = codecs.getincrementaldecoder("utf-8")()
            text = decoded(decoder, line, path, offset) + decoded(decoder, b"", path, offset + len(line))
            offset += len(line)
            text = text.removeprefix("\ufeff") if number == 1 else text
            if text.strip():
                yield _line(text, columns, path, number), offset if stream is file else file.tell()


def _line(line: str, columns: Columns, path: Path, number: int) -> str:
    where, hint = f"{shown(path)}, line {number}", f"`sed -n {number}p {pasteable(path)}`"
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON", why=str(error).replace("\n", " "), hint=hint) from error
    except RecursionError as error:
        raise DataError(f"{where}: JSON nested too deep", hint=hint) from error
    return _text(row, columns, where, hint)


def _text(row: Any, columns: Columns, where: str, hint: str) -> str:
    if not isinstance(row, dict):
        raise DataError(f"{where}: not an object", why='a row must look like {"text": "…"}', hint=hint)
    return columns.text(row, where, hint)


def json_rows(path: Path, columns: Columns) -> Rows:
    """A list of objects, one object, or objects one after the other; the file need not fit into memory."""
    with opened(path) as (stream, file):
        for number, row in enumerate(_values(stream, path), start=1):
            hint = f"`python3 -m json.tool {pasteable(path)} | head`"
            yield _text(row, columns, f"{shown(path)}, row {number}", hint), file.tell()


def _values(stream: Any, path: Path) -> Iterator[Any]:
    """The values of a JSON file: those inside its list where it is one."""
    parse, decoder = json.JSONDecoder().raw_decode, codecs.getincrementaldecoder("utf-8")()
    text, offset, wanted, ended, number = "", 0, BLOCK_BYTES, False, 1
    while not ended or text:
        data = stream.read(wanted)
        text += decoded(decoder, data, path, offset)
        offset, ended, start = offset + len(data), not data, 0
        while (start := _value_start(text, start)) < len(text):
            try:
                value, start = parse(text, start)
            except ValueError as error:
                if ended:
                    why = str(error).replace("\n", " ")
                    raise DataError(f"{shown(path)}, row {number}: not JSON", why=why) from error
                break  # it goes on in the next block
            except RecursionError as error:
                raise DataError(f"{shown(path)}, row {number}: JSON nested too deep") from error
            yield value
            number += 1
        # A row longer than a block is parsed again with every block; twice as long ones keep that linear.
        wanted = 2 * wanted if start == 0 and text else BLOCK_BYTES
        text = text[start:]


def _value_start(text: str, start: int) -> int:
    """Past white space, and what stands around and between the values of a list."""
    while start < len(text) and text[start] in " \t\r\n,[]\ufeff":
        start += 1
    return start


def parquet_rows(path: Path, columns: Columns) -> Rows:
    """Each row of the table; where it ends in the file is only roughly known."""
    pyarrow = imported_pyarrow("reading .parquet")
    with opened(path) as (file, _):
        try:
            parquet = pyarrow.parquet.ParquetFile(file)
            require_text_columns(parquet.schema_arrow, columns, shown(path))
            size, rows_done, rows = path.stat().st_size, 0, max(parquet.metadata.num_rows, 1)
            for batch in parquet.iter_batches(batch_size=1024, columns=list(columns.names) or None):
                for row in batch.to_pylist():
                    rows_done += 1
                    yield columns.text(row, f"{shown(path)}, row {rows_done}"), size * rows_done // rows
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
            raise DataError(
                f"{shown(path)} is not a whole parquet file",
                why=(str(error).splitlines() or [type(error).__name__])[0],
                hint="fetch it again: it is truncated or damaged",
            ) from error


def require_text_columns(schema: Any, columns: Columns, where: str) -> None:
    """Raises DataError where a column is not in an Arrow schema, or holds no text."""
    columns.require(schema.names, where)
    for name in columns.names:
        kind = str(schema.field(name).type)
        if not any(kind.startswith(text) for text in _TEXT_TYPES):
            raise DataError(
                f"{where}: the column `{name}` holds no text",
                why=f"it is of type {kind}; the columns are {', '.join(f'`{one}`' for one in schema.names[:20])}",
                hint="`data.text_column=NAME`",
            )


_TEXT_TYPES = ("string", "large_string", "dictionary<values=string", "null")
