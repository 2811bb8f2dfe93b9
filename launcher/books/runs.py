"""The ledger's runs, and the checkpoints that came home of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from launcher.books.ledger_file import LedgerFile, Taken
from launcher.books.rows import CheckpointRow, NodeRow, RunRow, RunState
from launcher.errors import NotFound, UsageError


class Runs(LedgerFile):
    """Executions of jobs. Every method is one transaction, on the disk when it returns."""

    def add_run(self, row: RunRow, nodes: Sequence[NodeRow] = ()) -> None:
        """Record a run before anything of it exists on the host; with all its machines, where there are several."""
        try:
            with self._transaction():
                self._insert("runs", row)
                for node in nodes:
                    self._insert("run_nodes", node)
        except Taken as error:
            raise UsageError(f"a run `{row.run_id}` exists already", why=str(error), hint="gptops ps") from error

    def mark_run(self, run_id: str, state: RunState, *, exit_code: int | None = None) -> RunRow:
        """Move a run on. Its first end is when it ended; one that goes on again has not ended."""
        known: dict[str, object] = {} if exit_code is None else {"exit_code": exit_code}
        with self._transaction():
            before = self.run(run_id).ended_at
            ended_at = (before or self._clock.now()) if state is RunState.ENDED else None
            self._update("runs", {"run_id": run_id}, {"state": state.value, "ended_at": ended_at, **known})
        return self.run(run_id)

    def run(self, run_id: str) -> RunRow:
        """The run with exactly this id."""
        for row in self._select(_run, "SELECT * FROM runs WHERE run_id = ?", (run_id,)):
            return row
        raise NotFound(f"there is no run `{run_id}`", hint="gptops ps")

    def runs(self, *, instance_label: str | None = None) -> list[RunRow]:
        """All runs, or those that one instance has a part in, oldest first."""
        rows = self._select(_run, "SELECT * FROM runs ORDER BY created_at, run_id")
        if instance_label is None:
            return rows
        query = "SELECT * FROM run_nodes WHERE instance_label = ?"
        shared = {node.run_id for node in self._select(_node, query, (instance_label,))}
        return [row for row in rows if row.instance_label == instance_label or row.run_id in shared]

    def nodes(self, run_id: str) -> list[NodeRow]:
        """The machines of a run on several, by their place; none for a run on one."""
        return self._select(_node, "SELECT * FROM run_nodes WHERE run_id = ? ORDER BY node", (run_id,))

    def machines(self, run: RunRow) -> list[str]:
        """The labels of every machine of a run, node 0's first."""
        return [node.instance_label for node in self.nodes(run.run_id)] or [run.instance_label]

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


def _run(values: dict[str, Any]) -> RunRow:
    return RunRow(**{**values, "state": RunState(values["state"]), "delete_remote": bool(values["delete_remote"])})


def _node(values: dict[str, Any]) -> NodeRow:
    return NodeRow(**values)


def _checkpoint(values: dict[str, Any]) -> CheckpointRow:
    return CheckpointRow(**values)
