"""What we intended and what came of it: one SQLite file per user.

An intent is on the disk (WAL, synchronous=FULL) before the caller spends money,
so a killed program leaves a trace to find the machine by. Many processes may use
the file at once. Each table has a file of its own here; the rows are rows.py's.
"""

from __future__ import annotations

from launcher.books.bad_machines import BadMachines
from launcher.books.errands import Errands
from launcher.books.instances import Instances
from launcher.books.networks import NetworkBook
from launcher.books.rows import (
    BadMachineRow,
    CheckpointRow,
    Direction,
    ErrandRow,
    ErrandState,
    InstanceRow,
    InstanceState,
    NetworkRow,
    NodeRow,
    PriceRow,
    RunRow,
    RunState,
    TransferRow,
)
from launcher.books.runs import Runs
from launcher.books.transfers import Transfers


class Ledger(Instances, NetworkBook, Runs, Transfers, BadMachines, Errands):
    """The open ledger. Every method is one transaction, on the disk when it returns."""


__all__ = [
    "BadMachineRow",
    "CheckpointRow",
    "Direction",
    "ErrandRow",
    "ErrandState",
    "InstanceRow",
    "InstanceState",
    "Ledger",
    "NetworkRow",
    "NodeRow",
    "PriceRow",
    "RunRow",
    "RunState",
    "TransferRow",
]
