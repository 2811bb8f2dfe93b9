"""What a provider says about a machine's price, written down whenever it is seen."""

from __future__ import annotations

from launcher.books.ledger import InstanceRow, Ledger
from launcher.providers.base import Instance, Status

STANDS_STILL = (Status.STOPPED, Status.PREEMPTED)
"""What bills for its disk alone."""


def note_price(row: InstanceRow, instance: Instance, ledger: Ledger) -> None:
    """A stopped machine costs its disk. A running one that is said to cost nothing costs what we knew: some providers
    tell the price only of what runs, and what we say must never be too low."""
    disk = instance.disk_per_hour or row.disk_per_hour
    if instance.status in STANDS_STILL:
        ledger.record_price(row.label, 0.0, disk)
    elif instance.price_per_hour > 0:
        ledger.record_price(row.label, instance.price_per_hour - disk, disk)
