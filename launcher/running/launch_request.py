"""From what was typed after `gptops train` to a LaunchPlan, or to the first thing that is wrong with it.

Reads jobs.yaml, the project, the user's environment and the ledger. Everything
that can be wrong without a host is found before a host is looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.books.ledger import InstanceRow, Ledger
from launcher.errors import NotFound
from launcher.project import JOBS_FILE, find_project
from launcher.running.beginning import beginning_of, begun_from
from launcher.running.launch_plan import LaunchPlan, plan_run
from launcher.running.select import pick_host
from launcher.running.snapshot import snapshot
from launcher.spec.jobs import JobSpec, require_supported
from launcher.spec.jobs_file import load_jobs, resolve_train, shown
from launcher.spec.secrets import secret_values


@dataclass(frozen=True)
class LaunchRequest:
    """The words of the command line."""

    job: str
    overrides: Sequence[str] = ()
    host: str | None = None
    skip_setup: bool = False
    only_look: bool = False
    """--dry-run: a plan without a host is good enough."""


def plan_of(
    request: LaunchRequest, *, start: Path, environment: Mapping[str, str], ledger: Ledger, run_id: str
) -> tuple[LaunchPlan, InstanceRow | None]:
    """The plan, and the host it is for; None where none is open and none is needed."""
    project = find_project(start)
    jobs = load_jobs(project.jobs_file or Path(JOBS_FILE))
    job = jobs.job(request.job)
    require_supported(job, request.job, shown(jobs.path))
    config = resolve_train(job, request.job, jobs, request.overrides)
    begins_from = None if request.only_look else beginning_of(config, project, ledger)
    secrets = secret_values(job.secrets, environment, job_name=request.job)
    host = _host(request, job, ledger)
    plan = plan_run(
        project,
        request.job,
        job,
        begun_from(config, begins_from) if begins_from else config,
        snapshot(project.root),
        run_id=run_id,
        host=(host.name, host.gpus) if host else None,
        secrets=secrets,
        skip_setup=request.skip_setup,
    )
    return replace(plan, begin_from=begins_from), host


def _host(request: LaunchRequest, job: JobSpec, ledger: Ledger) -> InstanceRow | None:
    if request.host is None and not ledger.instances():
        if request.only_look:
            return None
        gpus = f" --gpus {job.resources.gpus}" if job.resources.gpus else ""
        raise NotFound("no host is open to train on", hint=f"gptops up --provider {job.provider}{gpus}")
    return pick_host(ledger, request.host)
