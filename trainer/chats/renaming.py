"""Rows of a dataset with its columns called what they are: `data.mapping` laid over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from trainer.config.mapping import FORMAT_COLUMNS, ColumnMapping, formats_of
from trainer.config.problems import did_you_mean
from trainer.errors import DataError


def renamed_rows(rows: Iterable[Mapping[str, Any]], mapping: ColumnMapping, source: str) -> Iterator[dict[str, Any]]:
    """The rows under the names of `mapping`. Raises DataError where the first one lacks a column that is named.

    A later row without it has nothing there, and is judged by its format.
    """
    for number, row in enumerate(rows, start=1):
        if number == 1:
            _require_columns(row, mapping, source)
        yield renamed(row, mapping)


def renamed(row: Mapping[str, Any], mapping: ColumnMapping) -> dict[str, Any]:
    """One row. Other columns stay, but for those by which it would be taken for a format that was not meant."""
    named = mapping.named
    found = {name: value for name, value in row.items() if name not in named.values()}
    found |= {name: row.get(column) for name, column in named.items()}
    if not named:
        return found
    meant = formats_of(frozenset(named))
    for name, columns in FORMAT_COLUMNS.items():  # in the order in which formats are looked for
        if not columns.needed <= set(found):
            continue
        if name in meant:
            break
        found = {key: value for key, value in found.items() if key in named or key not in columns.needed}
    return found


def mapping_text(mapping: ColumnMapping) -> str:
    """` (question as prompt, answer as completion)`; "" without a mapping."""
    parts = [f"{column} as {name}" for name, column in mapping.named.items() if column != name]
    return f" ({', '.join(parts)})" if parts else ""


def _require_columns(row: Mapping[str, Any], mapping: ColumnMapping, source: str) -> None:
    for name, column in mapping.named.items():
        if column not in row:
            raise DataError(
                f"{source}: there is no column `{column}`{did_you_mean(column, row)}",
                why="the columns are " + (", ".join(f"`{one}`" for one in list(row)[:20]) or "none at all"),
                hint=f"`data.mapping.{name}=COLUMN`",
            )
