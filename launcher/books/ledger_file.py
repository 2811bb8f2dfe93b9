"""The ledger's file: one SQLite database that many processes use at once, and that survives a power cut.

Opens or makes it, refuses one of a newer gptops or a damaged one, and turns every
complaint of SQLite into one of ours. What the rows mean is rows.py's.
"""

from __future__ import annotations

import dataclasses
import enum
import fcntl
import math
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from launcher.books.schema import SCHEMA, SCHEMA_VERSION, UPGRADES
from launcher.clock import Clock
from launcher.errors import LocalFault, NotFound

BUSY_SECONDS = 30.0

Row = TypeVar("Row")
Self = TypeVar("Self", bound="LedgerFile")


class Taken(LocalFault):
    """There is such a row already. For the tables' own files, which know what to call it."""


class LedgerFile:
    """The open file. WAL and synchronous=FULL: what was written is on the disk when the statement returns."""

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

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _prepare(self) -> None:
        with self._faults():
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            if self._version() < SCHEMA_VERSION:
                self._create_or_upgrade()
            self._refuse_newer()
            self._refuse_damage()

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def _create_or_upgrade(self) -> None:
        # SQLite answers "locked" at once, without waiting, when two processes switch to WAL together.
        with open(self._path.with_suffix(".creating"), "w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if self._version() == 0:
                os.chmod(self._path, 0o600)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = 1; COMMIT;")
            for version in range(self._version() + 1, SCHEMA_VERSION + 1):
                self._db.executescript(f"BEGIN IMMEDIATE; {UPGRADES[version]} PRAGMA user_version = {version}; COMMIT;")

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
        except sqlite3.IntegrityError as error:
            family = Taken if "UNIQUE" in str(error) else LocalFault
            raise family(f"the ledger {self._path} does not take this", why=str(error), hint="gptops ps") from error
        except sqlite3.OperationalError as error:
            raise LocalFault(
                f"the ledger {self._path} cannot be used",
                why=str(error),
                hint=f"ls -l {self._path.parent}; df -h {self._path.parent}",
            ) from error
        except (sqlite3.DatabaseError, ValueError, TypeError, KeyError) as error:
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
            return [_sound(row(dict(found))) for found in self._db.execute(query, values)]

    def _has(self, table: str, column: str, value: object) -> bool:
        with self._faults():
            return self._db.execute(f"SELECT 1 FROM {table} WHERE {column} = ?", (value,)).fetchone() is not None

    def _insert(self, table: str, row: object, *, verb: str = "INSERT") -> None:
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


_PLAIN: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


def _sound(row: Row) -> Row:
    """The row, if each value is of its declared kind. SQLite keeps any kind in any column; a flipped byte is enough."""
    for part in dataclasses.fields(row):  # type: ignore[arg-type]
        value, kinds = getattr(row, part.name), str(part.type).split(" | ")
        allowed = tuple(kind for name in kinds for kind in _PLAIN.get(name, ()))
        if value is None and "None" in kinds:
            continue
        if allowed and (not isinstance(value, allowed) or not math.isfinite(value if isinstance(value, float) else 0)):
            raise ValueError(f"{type(row).__name__}.{part.name} is {value!r}")
    return row
