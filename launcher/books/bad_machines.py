"""The ledger's bad machines: those that failed once and are not rented again."""

from __future__ import annotations

from typing import Any

from launcher.books.ledger_file import LedgerFile
from launcher.books.rows import BadMachineRow


class BadMachines(LedgerFile):
    """Physical machines by provider. Every method is one transaction, on the disk when it returns."""

    def ban_machine(self, provider: str, machine_id: str, reason: str) -> None:
        """Do not take it again. A market that names no machines has none to ban; the newest reason stands."""
        if machine_id:
            row = BadMachineRow(provider, machine_id, self._clock.now(), reason)
            self._insert("bad_machines", row, verb="INSERT OR REPLACE")

    def bad_machines(self, provider: str) -> dict[str, str]:
        """machine_id → why."""
        rows = self._select(_bad, "SELECT * FROM bad_machines WHERE provider = ? ORDER BY since", (provider,))
        return {row.machine_id: row.reason for row in rows}


def _bad(values: dict[str, Any]) -> BadMachineRow:
    return BadMachineRow(**values)
