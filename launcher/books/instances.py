"""The ledger's instances, and what each costs since when."""

from __future__ import annotations

from typing import Any

from launcher.books.ledger_file import LedgerFile, Taken
from launcher.books.rows import InstanceRow, InstanceState, PriceRow
from launcher.errors import NotFound, UsageError


class Instances(LedgerFile):
    """Machines we asked for. Every method is one transaction, on the disk when it returns."""

    def intend_instance(
        self,
        *,
        label: str,
        name: str,
        provider: str,
        project: str,
        price_per_hour: float,
        gpus: int,
        gpu_name: str,
        machine_id: str = "",
        spot: bool = False,
        disk_per_hour: float = 0.0,
        upload_usd_per_gb: float = 0.0,
        download_usd_per_gb: float = 0.0,
        group_name: str = "",
        inside: str = "",
    ) -> InstanceRow:
        """Record that a machine is about to be asked for. Only then may the caller ask."""
        row = InstanceRow(
            label, name, provider, project, InstanceState.INTENDED, None, price_per_hour, gpus, gpu_name, "",
            self._clock.now(), None, machine_id, spot, disk_per_hour, upload_usd_per_gb, download_usd_per_gb,
            None, group_name, inside,
        )  # fmt: skip
        try:
            with self._transaction():
                self._insert("instances", row)
                self._add_price(label, price_per_hour - disk_per_hour, disk_per_hour)
        except Taken as error:
            raise UsageError(
                f"a host named `{name}` is open already", hint=f"gptops down {name}, or choose another name with --name"
            ) from error
        return row

    def mark_instance(
        self,
        label: str,
        state: InstanceState,
        *,
        instance_id: str | None = None,
        price_per_hour: float | None = None,
        disk_per_hour: float | None = None,
        address: str | None = None,
        machine_id: str | None = None,
        inside: str | None = None,
        closed_at: float | None = None,
    ) -> InstanceRow:
        """Move an instance on, and note what has become known. None leaves a value as it is.

        `closed_at` goes with CLOSED, where the end came before it was seen; none: now.
        """
        values: dict[str, object] = {
            "state": state.value,
            "instance_id": instance_id,
            "address": address,
            "machine_id": machine_id,
            "inside": inside,
            "closed_at": (closed_at or self._clock.now()) if state is InstanceState.CLOSED else None,
        }
        with self._transaction():
            known = {key: value for key, value in values.items() if value is not None}
            self._update("instances", {"label": label}, known)
            if price_per_hour is not None:
                disk = self.instance(label).disk_per_hour if disk_per_hour is None else disk_per_hour
                self._note_price(label, price_per_hour - disk, disk)
        return self.instance(label)

    def set_deadline(self, label: str, at: float | None) -> InstanceRow:
        """Note when the machine ends itself; None: nothing on it would."""
        self._update("instances", {"label": label}, {"deadline": at})
        return self.instance(label)

    def instance(self, label: str) -> InstanceRow:
        """The instance with this label, closed or not."""
        for row in self._select(_instance, "SELECT * FROM instances WHERE label = ?", (label,)):
            return row
        raise NotFound(f"the ledger has no instance `{label}`", hint="gptops ps")

    def instances(self, *states: InstanceState) -> list[InstanceRow]:
        """Instances in any of `states` (none given: all that are not closed), oldest first."""
        wanted = {state.value for state in states or set(InstanceState) - {InstanceState.CLOSED}}
        rows = self._select(_instance, "SELECT * FROM instances ORDER BY created_at, label")
        return [row for row in rows if row.state.value in wanted]

    def group(self, name: str | None, *states: InstanceState) -> list[InstanceRow]:
        """Those of `instances` that were opened as the group of this name; none where there is no such name."""
        return [row for row in self.instances(*states) if name and row.group_name == name]

    # Prices

    def record_price(self, label: str, gpu_per_hour: float, disk_per_hour: float) -> None:
        """Note what the machine costs from now on. The same as before changes nothing."""
        with self._transaction():
            self._note_price(label, gpu_per_hour, disk_per_hour)

    def prices(self, label: str) -> list[PriceRow]:
        """What it cost since when, oldest first. Empty for a machine of an older gptops' ledger."""
        return self._select(_price, "SELECT * FROM prices WHERE label = ? ORDER BY since", (label,))

    def _note_price(self, label: str, gpu_per_hour: float, disk_per_hour: float) -> None:
        known = self.prices(label)
        if not known or (known[-1].gpu_per_hour, known[-1].disk_per_hour) != (max(0.0, gpu_per_hour), disk_per_hour):
            self._add_price(label, gpu_per_hour, disk_per_hour)
        # A stopped machine keeps the price at which it would run again: it is what a person wants to see.
        whole = {"price_per_hour": gpu_per_hour + disk_per_hour} if gpu_per_hour > 0 else {}
        self._update("instances", {"label": label}, {**whole, "disk_per_hour": disk_per_hour})

    def _add_price(self, label: str, gpu_per_hour: float, disk_per_hour: float) -> None:
        # A quote whose disk costs more than the whole is a rounding of the provider's.
        row = PriceRow(label, self._clock.now(), max(0.0, gpu_per_hour), disk_per_hour)
        self._insert("prices", row, verb="INSERT OR REPLACE")


def _instance(values: dict[str, Any]) -> InstanceRow:
    return InstanceRow(**{**values, "state": InstanceState(values["state"]), "spot": bool(values["spot"])})


def _price(values: dict[str, Any]) -> PriceRow:
    return PriceRow(**values)
