"""A run's metrics.jsonl at home: replaced as a whole, so no reader ever meets half of it."""

from __future__ import annotations

from launcher.paths import LocalRun, RemoteRun
from launcher.remote.rsync import COMMON_OPTIONS, run_rsync
from launcher.remote.transport import Transport


def pull_metrics(transport: Transport, run: RemoteRun, local: LocalRun) -> None:
    """Make the copy at home what the host has now. A run that has not measured anything yet is no error."""
    local.incoming.mkdir(parents=True, exist_ok=True)
    # The temporary file lies in .incoming/, where sync sweeps up what a kill leaves.
    options = ("--times", "--ignore-missing-args", f"--temp-dir={local.incoming.absolute()}", *COMMON_OPTIONS)
    source, target = f"{transport.host.alias}:{run.metrics}", f"{local.root.absolute()}/"
    argv = ("rsync", *options, "-e", transport.rsh, "--", source, target)
    run_rsync(argv, receiver="here", host_name=transport.host.name)
