"""Rows of conversations from whatever source text comes from: files, folders, or a dataset of the hub.

The readers of trainer.data give a text a row; here that text is the whole row as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from trainer.config import DataConfig
from trainer.config.sources import hub_source
from trainer.data.columns import Columns
from trainer.data.hub import HubText
from trainer.data.readers import FileSource
from trainer.data.sources import corpus_path, find_corpus
from trainer.errors import DataError


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
    """The rows of `config.path`, at most `config.max_samples`. Raises DataError."""
    hub = hub_source(config.path)
    source = HubText(hub, WholeRow()) if hub else FileSource(find_corpus(corpus_path(config.path)), WholeRow())
    for document in islice(source.documents(), config.max_samples):
        yield _row("".join(document.texts), source.name)


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
