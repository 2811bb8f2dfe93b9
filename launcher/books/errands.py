"""The ledger's errands: each `gptops run`, so that the same command goes on after it was killed."""

from __future__ import annotations

from typing import Any

from launcher.books.ledger_file import LedgerFile, Taken
from launcher.books.rows import ErrandRow, ErrandState
from launcher.errors import NotFound, UsageError


class Errands(LedgerFile):
    """Managed loops. Every method is one transaction, on the disk when it returns."""

    def add_errand(self, errand_id: str, project_root: str, content: str) -> ErrandRow:
        """Record one before it does anything. `content` is JSON text of the caller's."""
        row = ErrandRow(errand_id, project_root, ErrandState.GOING, content, self._clock.now(), None)
        try:
            self._insert("errands", row)
        except Taken as error:
            raise UsageError(f"there is an errand `{errand_id}` already", hint="gptops watch") from error
        return row

    def mark_errand(self, errand_id: str, *, state: ErrandState | None = None, content: str | None = None) -> ErrandRow:
        """Move it on, or replace its content; None leaves either as it is."""
        values: dict[str, object] = {} if content is None else {"content": content}
        if state is not None:
            values |= {"state": state.value, "ended_at": None if state is ErrandState.GOING else self._clock.now()}
        if values:
            self._update("errands", {"errand_id": errand_id}, values)
        return self.errand(errand_id)

    def errand(self, errand_id: str) -> ErrandRow:
        """The errand with exactly this id."""
        for row in self._select(_errand, "SELECT * FROM errands WHERE errand_id = ?", (errand_id,)):
            return row
        raise NotFound(f"there is no errand `{errand_id}`", hint="gptops ps")

    def errands(self, *states: ErrandState) -> list[ErrandRow]:
        """Errands in any of `states` (none given: all), oldest first."""
        wanted = {state.value for state in states or tuple(ErrandState)}
        rows = self._select(_errand, "SELECT * FROM errands ORDER BY created_at, errand_id")
        return [row for row in rows if row.state.value in wanted]


def _errand(values: dict[str, Any]) -> ErrandRow:
    return ErrandRow(**{**values, "state": ErrandState(values["state"])})
