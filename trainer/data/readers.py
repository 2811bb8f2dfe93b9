"""What is written in corpus files: documents, in parts that need not fit into memory together.

A .txt or .md file is one document, a row of .jsonl, .json or .parquet is one;
each may be packed as .gz or .zst.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trainer.data.columns import Columns
from trainer.data.compressed import kind_of
from trainer.data.documents import START, Document, Place
from trainer.data.row_files import Rows, json_rows, jsonl_rows, parquet_rows
from trainer.data.sources import Corpus, SourceFile, find_corpus
from trainer.data.text_files import text_blocks
from trainer.errors import DataError
from trainer.quoting import shown

_ROWS = {".jsonl": jsonl_rows, ".json": json_rows, ".parquet": parquet_rows}


@dataclass(frozen=True)
class FileSource:
    """The documents of a corpus of files."""

    corpus: Corpus
    columns: Columns
    likely_tokens = 0
    version = ""

    @property
    def name(self) -> str:
        return shown(self.corpus.path)

    @property
    def total_bytes(self) -> int:
        return self.corpus.total_bytes

    def stamp(self) -> Any:
        return [self.corpus.stamp(), list(self.columns.names), self.columns.template]

    def documents(self, start: Place = START) -> Iterator[Document]:
        before = sum(file.bytes for file in self.corpus.files[: start.file])
        for number, file in enumerate(self.corpus.files[start.file :], start=start.file):
            skipped = start.row if number == start.file else 0
            yield from _documents_of(file, number, skipped, before, self.columns)
            before += file.bytes

    def require_unchanged(self) -> None:
        if find_corpus(self.corpus.path).stamp() != self.corpus.stamp():
            raise DataError(f"{self.name} changed while it was read", hint="start again when it is complete")


def _documents_of(file: SourceFile, number: int, skipped: int, before: int, columns: Columns) -> Iterator[Document]:
    after = Place(number + 1)
    if kind_of(file.path) not in _ROWS:
        if not skipped:
            yield Document(text_blocks(file.path), Place(number), after, before, before + file.bytes)
        return
    rows: Rows = _ROWS[kind_of(file.path)](file.path, columns)
    begins_at = before
    for row, (text, offset) in enumerate(rows):
        if row >= skipped:
            yield Document((text,), Place(number, row), Place(number, row + 1), begins_at, before + offset)
        begins_at = before + offset
