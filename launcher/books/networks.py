"""The ledger's private networks: one for the machines of a rented group."""

from __future__ import annotations

from typing import Any

from launcher.books.ledger_file import LedgerFile, Taken
from launcher.books.rows import InstanceState, NetworkRow
from launcher.errors import NotFound, UsageError


class NetworkBook(LedgerFile):
    """Networks we asked for. Every method is one transaction, on the disk when it returns."""

    def intend_network(
        self, *, label: str, group_name: str, provider: str, project: str, cluster_id: str
    ) -> NetworkRow:
        """Record that a network is about to be made, and machines in it. Only then may the caller ask."""
        row = NetworkRow(
            label, group_name, provider, project, cluster_id, InstanceState.INTENDED, None, self._clock.now(), None
        )
        try:
            self._insert("networks", row)
        except Taken as error:
            raise UsageError(
                f"a group named `{group_name}` is open already",
                hint=f"gptops down {group_name}, or choose another name with --name",
            ) from error
        return row

    def mark_network(self, label: str, state: InstanceState, *, network_id: str | None = None) -> NetworkRow:
        """Move a network on, and note its id where it has become known."""
        known: dict[str, object] = {} if network_id is None else {"network_id": network_id}
        closed_at = self._clock.now() if state is InstanceState.CLOSED else None
        self._update("networks", {"label": label}, {"state": state.value, "closed_at": closed_at, **known})
        return self.network(label)

    def network(self, label: str) -> NetworkRow:
        """The network with this label, closed or not."""
        for row in self._select(_network, "SELECT * FROM networks WHERE label = ?", (label,)):
            return row
        raise NotFound(f"the ledger has no network `{label}`", hint="gptops ps")

    def networks(self, *states: InstanceState) -> list[NetworkRow]:
        """Networks in any of `states` (none given: all that are not closed), oldest first."""
        wanted = {state.value for state in states or set(InstanceState) - {InstanceState.CLOSED}}
        rows = self._select(_network, "SELECT * FROM networks ORDER BY created_at, label")
        return [row for row in rows if row.state.value in wanted]

    def network_of(self, group_name: str) -> NetworkRow | None:
        """The one of the open group of this name; None where that has none."""
        return next((row for row in self.networks() if group_name and row.group_name == group_name), None)


def _network(values: dict[str, Any]) -> NetworkRow:
    return NetworkRow(**{**values, "state": InstanceState(values["state"])})
