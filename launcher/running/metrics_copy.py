"""A run's metrics.jsonl at home: replaced as a whole, so no reader ever meets half of it."""

from __future__ import annotations

import os

from launcher.paths import LocalRun, RemoteRun
from launcher.remote.transport import Transport


def pull_metrics(transport: Transport, run: RemoteRun, local: LocalRun) -> None:
    """Make the copy at home what the host has now. A run that has not measured anything yet is no error."""
    local.incoming.mkdir(parents=True, exist_ok=True)
    # The temporary file lies in .incoming/, where sync sweeps up what a kill leaves.
    transport.pull([run.metrics.name], run.metrics.parent, local.root, temporary=local.incoming)


def pull_longer_metrics(transport: Transport, run: RemoteRun, local: LocalRun) -> None:
    """The same from a machine that may have no more than what the run began with: then the copy at home stays."""
    local.incoming.mkdir(parents=True, exist_ok=True)
    transport.pull([run.metrics.name], run.metrics.parent, local.incoming)
    fresh = local.incoming / run.metrics.name
    if fresh.exists() and (not local.metrics.exists() or fresh.stat().st_size > local.metrics.stat().st_size):
        os.replace(fresh, local.metrics)
