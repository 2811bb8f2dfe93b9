"""What of a row is its text: one column, or several in a template."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trainer.errors import DataError

_FIELD = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Columns:
    """How rows become texts."""

    column: str
    template: str = ""
    """With `{column}` in it; then `column` is not used."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(dict.fromkeys(_FIELD.findall(self.template))) if self.template else (self.column,)

    def require(self, present: Iterable[str], where: str) -> None:
        """Raises DataError where one of them is not among the `present` columns."""
        present = list(present)
        for name in self.names:
            if name not in present:
                raise self._missing(name, present, where)

    def text(self, row: Mapping[str, Any], where: str, hint: str = "") -> str:
        """The text of a row; "" where every column of it is empty. Raises DataError."""
        self.require(row, where)
        values = {name: _text_or_nothing(row[name], name, where, hint) for name in self.names}
        if not self.template:
            return values[self.column]
        if not any(value.strip() for value in values.values()):
            return ""
        return _FIELD.sub(lambda field: values[field[1]], self.template)

    def _missing(self, name: str, present: list[str], where: str) -> DataError:
        key = "data.template='{NAME} …'" if self.template else "data.text_column=NAME"
        only = present[0] if len(present) == 1 and not self.template else ""
        return DataError(
            f"{where}: there is no column `{name}`",
            why="the columns are " + (", ".join(f"`{one}`" for one in present[:20]) or "none at all"),
            hint=f"`{key.replace('NAME', only) if only else key}`",
        )


def _text_or_nothing(value: Any, column: str, where: str, hint: str) -> str:
    """The text of a field; null counts as empty, as it does in most published datasets."""
    if value is None or isinstance(value, str):
        return value or ""
    raise DataError(f"{where}: the column `{column}` holds no text", why=f"it is a {type(value).__name__}", hint=hint)
