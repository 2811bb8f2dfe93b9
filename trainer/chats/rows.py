"""Rows of conversations from whatever source text comes from: files, folders, or a dataset of the hub.

The readers of trainer.data give a text a row; here that text is the whole row as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from trainer.chats.renaming import mapping_text, renamed_rows
from trainer.config import DataConfig
from trainer.config.sources import hub_source
from trainer.data.columns import Columns
from trainer.data.hub import HubText
from trainer.data.readers import FileSource
from trainer.data.sources import corpus_path, find_corpus
from trainer.errors import DataError
from trainer.quoting import shown


@dataclass(frozen=True)
class WholeRow(Columns):
    """All columns of a row at once, as JSON."""

    column: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """None is named: all are read."""
        return ()

    def require(self, present: Iterable[str], where: str) -> None:
        """Which columns a format needs, the format says."""

    def text(self, row: Mapping[str, Any], where: str, hint: str = "") -> str:
        return json.dumps(row, ensure_ascii=False, default=str)


def read_rows(config: DataConfig) -> Iterator[dict[str, Any]]:
    """The rows of `config.path`, at most `config.max_samples`, its columns renamed by `config.mapping`.

    Raises DataError.
    """
    _require_one_source_of_rows(config)
    hub = hub_source(config.path)
    source = HubText(hub, WholeRow()) if hub else FileSource(find_corpus(corpus_path(config.path)), WholeRow())
    rows = (_row("".join(document.texts), source.name) for document in source.documents())
    yield from islice(renamed_rows(rows, config.mapping, source.name), config.max_samples)


def rows_text(config: DataConfig) -> str:
    """Where they come from, for a line: ``hf:owner/name` (question as prompt)`."""
    return shown(config.path) + mapping_text(config.mapping)


def _require_one_source_of_rows(config: DataConfig) -> None:
    """What only makes text of a corpus is no way to read rows, and must not be passed over in silence."""
    for key, given in (
        ("datasets", config.datasets),
        ("text_column", config.text_column),
        ("template", config.template),
    ):
        if given:
            raise DataError(
                f"`data.{key}` is for pretraining: rows of conversations are not read by it",
                why="a row is read by its columns" if key != "datasets" else "rows come from one source",
                hint="data.path=SOURCE, and data.mapping.prompt=COLUMN where columns have names of their own",
            )


def _row(text: str, source: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:  # a .txt or .md among the files
        raise DataError(
            f"{source} holds text, and conversations are needed",
            why="a row is an object with columns",
            hint="give .jsonl, .json or .parquet",
        ) from error
    return dict(row)
