"""What we intended and what came of it: instances, runs, checkpoints, in one SQLite file per user.

An intent is on the disk (WAL, synchronous=FULL) before the caller spends money,
so a killed program leaves a trace to find the machine by. Many processes may use
the file at once. Everything here except the intents is a cache: the provider
knows what bills, the host knows what runs, MANIFEST.json what is whole.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from launcher.books.ledger_file import LedgerFile, Taken
from launcher.errors import NotFound, UsageError


class InstanceState(str, enum.Enum):
    """How far an instance got. `intended` may or may not exist at the provider: only its label can tell."""

    INTENDED = "intended"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class RunState(str, enum.Enum):
    """How far a run got, as we last knew; the truth is the host's `status/`."""

    PREPARING = "preparing"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class InstanceRow:
    """One machine we asked for."""

    label: str
    """`gptops:<project>:<uuid>`, the name the provider knows it by."""
    name: str
    """What the user types; unique among those not closed."""
    provider: str
    project: str
    state: InstanceState
    instance_id: str | None
    """The provider's id; None until `create` has answered."""
    price_per_hour: float
    gpus: int
    gpu_name: str
    address: str
    """`user@host:port` as last seen, for people."""
    created_at: float
    closed_at: float | None
    machine_id: str = ""
    """The physical machine, where the market tells."""
    spot: bool = False
    disk_per_hour: float = 0.0
    """The disk's part of the price."""
    upload_usd_per_gb: float = 0.0
    download_usd_per_gb: float = 0.0
    deadline: float | None = None
    """When the machine ends itself, whatever happens to this one; None: nothing on it would."""


@dataclass(frozen=True)
class RunRow:
    """One execution of a job."""

    run_id: str
    job: str
    host_name: str
    instance_label: str
    project_root: str
    local_root: str
    """Its folder at home."""
    created_at: float
    state: RunState
    exit_code: int | None
    delete_remote: bool
    """What `sync` does unless told otherwise."""
    keep_remote: int
    ended_at: float | None = None


@dataclass(frozen=True)
class CheckpointRow:
    """One checkpoint that was verified at home."""

    run_id: str
    step: int
    manifest_sha256: str
    bytes: int
    synced_at: float
    pruned_at: float | None
    """When the host's copy was deleted."""


class Ledger(LedgerFile):
    """The open ledger. Every method is one transaction, on the disk when it returns."""

    # Instances

    def intend_instance(
        self, *, label: str, name: str, provider: str, project: str, price_per_hour: float, gpus: int, gpu_name: str
    ) -> InstanceRow:
        """Record that a machine is about to be asked for. Only then may the caller ask."""
        row = InstanceRow(
            label, name, provider, project, InstanceState.INTENDED, None, price_per_hour, gpus, gpu_name, "",
            self._clock.now(), None,
        )  # fmt: skip
        try:
            self._insert("instances", row)
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
        address: str | None = None,
    ) -> InstanceRow:
        """Move an instance on, and note what has become known. None leaves a value as it is."""
        values: dict[str, object] = {
            "state": state.value,
            "instance_id": instance_id,
            "price_per_hour": price_per_hour,
            "address": address,
            "closed_at": self._clock.now() if state is InstanceState.CLOSED else None,
        }
        self._update("instances", {"label": label}, {key: value for key, value in values.items() if value is not None})
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

    # Runs

    def add_run(self, row: RunRow) -> None:
        """Record a run before anything of it exists on the host."""
        try:
            self._insert("runs", row)
        except Taken as error:
            raise UsageError(f"a run `{row.run_id}` exists already", why=str(error), hint="gptops ps") from error

    def mark_run(self, run_id: str, state: RunState, *, exit_code: int | None = None) -> RunRow:
        """Move a run on."""
        known = {} if exit_code is None else {"exit_code": exit_code}
        self._update("runs", {"run_id": run_id}, {"state": state.value, **known})
        return self.run(run_id)

    def run(self, run_id: str) -> RunRow:
        """The run with exactly this id."""
        for row in self._select(_run, "SELECT * FROM runs WHERE run_id = ?", (run_id,)):
            return row
        raise NotFound(f"there is no run `{run_id}`", hint="gptops ps")

    def runs(self, *, instance_label: str | None = None) -> list[RunRow]:
        """All runs, or those of one instance, oldest first."""
        rows = self._select(_run, "SELECT * FROM runs ORDER BY created_at, run_id")
        return [row for row in rows if instance_label in (None, row.instance_label)]

    # Checkpoints

    def record_checkpoint(self, run_id: str, step: int, manifest_sha256: str, size_bytes: int) -> CheckpointRow:
        """Record a checkpoint that is verified and in place at home. Again with the same manifest changes nothing."""
        with self._transaction():
            known = {row.step: row for row in self.checkpoints(run_id)}.get(step)
            if known is not None and known.manifest_sha256 == manifest_sha256:
                return known
            row = CheckpointRow(run_id, step, manifest_sha256, size_bytes, self._clock.now(), None)
            self._insert("checkpoints", row, verb="INSERT OR REPLACE")
            return row

    def mark_pruned(self, run_id: str, step: int) -> None:
        """Record that the host's copy is gone."""
        self._update("checkpoints", {"run_id": run_id, "step": step}, {"pruned_at": self._clock.now()})

    def checkpoints(self, run_id: str) -> list[CheckpointRow]:
        """What came home of a run, by step."""
        query = "SELECT * FROM checkpoints WHERE run_id = ? ORDER BY step"
        return self._select(_checkpoint, query, (run_id,))


def _instance(values: dict[str, Any]) -> InstanceRow:
    return InstanceRow(**{**values, "state": InstanceState(values["state"]), "spot": bool(values["spot"])})


def _run(values: dict[str, Any]) -> RunRow:
    return RunRow(**{**values, "state": RunState(values["state"]), "delete_remote": bool(values["delete_remote"])})


def _checkpoint(values: dict[str, Any]) -> CheckpointRow:
    return CheckpointRow(**values)
