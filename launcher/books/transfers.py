"""The ledger's transfers: what markets that sell bandwidth by the gigabyte will bill."""

from __future__ import annotations

from typing import Any

from launcher.books.ledger_file import LedgerFile
from launcher.books.rows import Direction, TransferRow


class Transfers(LedgerFile):
    """Bytes that were moved. Every method is one transaction, on the disk when it returns."""

    def record_transfer(self, label: str, direction: Direction, size_bytes: int) -> None:
        """Note bytes that went to (`up`) or came from (`down`) a machine. One in no book is left out."""
        row = TransferRow(label, self._clock.now(), direction, size_bytes)
        with self._transaction():
            if size_bytes > 0 and self._has("instances", "label", label):
                self._insert("transfers", row)

    def transferred(self, label: str) -> list[TransferRow]:
        """What went over its network, oldest first."""
        return self._select(_transfer, "SELECT * FROM transfers WHERE label = ? ORDER BY at", (label,))


def _transfer(values: dict[str, Any]) -> TransferRow:
    return TransferRow(**values)
