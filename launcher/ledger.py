"""What we intended and what came of it: instances, runs, checkpoints, in one SQLite file per user.

An intent is on the disk (WAL, synchronous=FULL) before the caller spends money,
so a killed program leaves a trace to find the machine by. Many processes may use
the file at once. Everything here except the intents is a cache: the provider
knows what bills, the host knows what runs, MANIFEST.json what is whole.
"""

from __future__ import annotations

import enum
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from launcher.clock import Clock
from launcher.errors import LocalFault, NotFound, UsageError

SCHEMA_VERSION = 1
BUSY_SECONDS = 30.0

Row = TypeVar("Row")


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


_SCHEMA = """
CREATE TABLE instances (
  label TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  provider TEXT NOT NULL,
  project TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('intended', 'open', 'closing', 'closed')),
  instance_id TEXT,
  price_per_hour REAL NOT NULL CHECK (price_per_hour >= 0),
  gpus INTEGER NOT NULL CHECK (gpus >= 0),
  gpu_name TEXT NOT NULL,
  address TEXT NOT NULL DEFAULT '',
  created_at REAL NOT NULL,
  closed_at REAL
);
CREATE UNIQUE INDEX one_open_instance_a_name ON instances (name) WHERE state != 'closed';
CREATE TABLE runs (
  run_id TEXT PRIMARY KEY,
  job TEXT NOT NULL,
  host_name TEXT NOT NULL,
  instance_label TEXT NOT NULL,
  project_root TEXT NOT NULL,
  local_root TEXT NOT NULL,
  created_at REAL NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('preparing', 'running', 'ended')),
  exit_code INTEGER,
  delete_remote INTEGER NOT NULL CHECK (delete_remote IN (0, 1)),
  keep_remote INTEGER NOT NULL CHECK (keep_remote >= 2)
);
CREATE TABLE checkpoints (
  run_id TEXT NOT NULL REFERENCES runs (run_id),
  step INTEGER NOT NULL CHECK (step >= 0),
  manifest_sha256 TEXT NOT NULL CHECK (length(manifest_sha256) = 64),
  bytes INTEGER NOT NULL CHECK (bytes >= 0),
  synced_at REAL NOT NULL,
  pruned_at REAL,
  PRIMARY KEY (run_id, step)
);
"""


class Ledger:
    """The open file. Every method is one transaction, on the disk when it returns."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        with self._faults():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

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
        except sqlite3.IntegrityError as error:
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
        except sqlite3.IntegrityError as error:
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

    # The file

    def _prepare(self) -> None:
        with self._faults():
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            if self._version() == 0:
                self._create()
            self._refuse_newer()
            self._refuse_damage()

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _create(self) -> None:
        # SQLite answers "locked" at once, without waiting, when two processes switch to WAL together.
        with open(self._path.with_suffix(".creating"), "w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if self._version() == 0:
                os.chmod(self._path, 0o600)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    def _refuse_newer(self) -> None:
        version = self._version()
        if version > SCHEMA_VERSION:
            raise LocalFault(
                f"the ledger {self._path} was written by a newer gptops",
                why=f"its format is {version}, this gptops knows {SCHEMA_VERSION}",
                hint="pip install --upgrade gptops",
            )

    def _refuse_damage(self) -> None:
        found = str(self._db.execute("PRAGMA quick_check(1)").fetchone()[0])
        if found != "ok":
            raise self._damaged(found)

    def _damaged(self, why: str) -> LocalFault:
        return LocalFault(
            f"the ledger {self._path} is damaged",
            why=f"{why}; what it knew about open machines cannot be trusted",
            hint=f"look for machines that still bill at your providers, then: mv {self._path} {self._path}.damaged",
        )

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """What goes wrong with the file, in our words."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.OperationalError as error:
            raise LocalFault(
                f"the ledger {self._path} cannot be used",
                why=str(error),
                hint=f"ls -l {self._path.parent}; df -h {self._path.parent}",
            ) from error
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise LocalFault(
                f"the ledger {self._path} cannot be used",
                why=str(error),
                hint="set GPTOPS_HOME to a folder you may write",
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._faults():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _select(self, row: Callable[[dict[str, Any]], Row], query: str, values: tuple[object, ...] = ()) -> list[Row]:
        with self._faults():
            return [row(dict(found)) for found in self._db.execute(query, values)]

    def _insert(self, table: str, row: InstanceRow | RunRow | CheckpointRow, *, verb: str = "INSERT") -> None:
        values = {key: value.value if isinstance(value, enum.Enum) else value for key, value in vars(row).items()}
        places = ", ".join(f":{key}" for key in values)
        with self._faults():
            self._db.execute(f"{verb} INTO {table} ({', '.join(values)}) VALUES ({places})", values)

    def _update(self, table: str, key: dict[str, object], values: dict[str, object]) -> None:
        assignments = ", ".join(f"{name} = :{name}" for name in values)
        where = " AND ".join(f"{name} = :{name}" for name in key)
        with self._faults():
            changed = self._db.execute(f"UPDATE {table} SET {assignments} WHERE {where}", {**values, **key}).rowcount
        if changed != 1:
            raise NotFound(f"the ledger has no such row in {table}: {key}", hint="gptops ps")


def _instance(values: dict[str, Any]) -> InstanceRow:
    return InstanceRow(**{**values, "state": InstanceState(values["state"])})


def _run(values: dict[str, Any]) -> RunRow:
    return RunRow(**{**values, "state": RunState(values["state"]), "delete_remote": bool(values["delete_remote"])})


def _checkpoint(values: dict[str, Any]) -> CheckpointRow:
    return CheckpointRow(**values)
