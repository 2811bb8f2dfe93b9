"""From what was typed after `gptops train` to a LaunchPlan, or to the first thing that is wrong with it.

Reads jobs.yaml, the project, the user's environment and the ledger. Everything
that can be wrong without a host is found before a host is looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.errors import NotFound
from launcher.project import JOBS_FILE, find_project
from launcher.running.beginning import beginning_of, begun_from
from launcher.running.launch_plan import LaunchPlan, PlannedNode, plan_run
from launcher.running.select import pick_host
from launcher.running.snapshot import snapshot
from launcher.slurm.clusters import cluster_for
from launcher.spec.jobs import JobSpec, require_supported
from launcher.spec.jobs_file import Jobs, load_jobs, resolve_train, shown
from launcher.spec.secrets import secret_values

ChooseNodes = Callable[[str | None, int], Sequence[InstanceRow]]
"""Machines of a group that answer: its name, and how many."""


@dataclass(frozen=True)
class LaunchRequest:
    """The words of the command line."""

    job: str
    overrides: Sequence[str] = ()
    host: str | None = None
    skip_setup: bool = False
    only_look: bool = False
    """--dry-run: a plan without a host is good enough."""
    nodes: int | None = None
    """Another number of machines than the job's."""
    resume_from: Path | None = None
    """A checkpoint at home to go on from."""


def plan_of(
    request: LaunchRequest,
    *,
    start: Path,
    environment: Mapping[str, str],
    ledger: Ledger,
    run_id: str,
    choose: ChooseNodes | None = None,
) -> tuple[LaunchPlan, Sequence[InstanceRow]]:
    """The plan, and the host it is for, or the nodes; none where none is open and none is needed."""
    project = find_project(start)
    jobs = load_jobs(project.jobs_file or Path(JOBS_FILE))
    there, named = ledger.instances(InstanceState.OPEN), jobs.job(request.job).host
    cluster = cluster_for(jobs.hosts, there, request.host, named, must_be_open=not request.only_look)
    job = _with_nodes(jobs.job(request.job), request.nodes)
    if cluster or _is_own(request.host, jobs, there):
        job = job.model_copy(update={"provider": "ssh"})  # what the command line says wins over the job's market
    require_supported(job, request.job, shown(jobs.path))
    config = resolve_train(job, request.job, jobs, request.overrides)
    begins_from = None if request.only_look else beginning_of(config, project, ledger)
    secrets = secret_values(job.secrets, environment, job_name=request.job)
    hosts = cluster[0] if cluster else _hosts(request, job, ledger, choose)
    plan = plan_run(
        project,
        request.job,
        job,
        begun_from(config, begins_from) if begins_from else config,
        snapshot(project.root),
        run_id=run_id,
        host=(", ".join(host.name for host in hosts), min(host.gpus for host in hosts)) if hosts else None,
        secrets=secrets,
        skip_setup=request.skip_setup,
        slurm=cluster[1] if cluster else None,
    )
    if plan.is_on_nodes:
        plan = replace(plan, nodes=_nodes(jobs, job, request.host or job.host, hosts))
    if request.resume_from is not None:
        plan = replace(plan, config=plan.config.model_copy(update={"resume": "must"}))
    return replace(plan, begin_from=begins_from, resume_from=request.resume_from), hosts


def _is_own(asked: str | None, jobs: Jobs, there: Sequence[InstanceRow]) -> bool:
    """Whether a machine, or a group, of the user's own was named."""
    if asked is None:
        return False
    fitting = {row.provider for row in there if asked == row.group_name or row.name.startswith(asked)}
    return asked in jobs.hosts or asked in jobs.groups or fitting == {"ssh"}


def _with_nodes(job: JobSpec, nodes: int | None) -> JobSpec:
    if nodes is None:
        return job
    host = job.host if nodes > 1 else None
    return job.model_copy(update={"resources": job.resources.model_copy(update={"nodes": nodes}), "host": host})


def _hosts(request: LaunchRequest, job: JobSpec, ledger: Ledger, choose: ChooseNodes | None) -> Sequence[InstanceRow]:
    if choose is not None and (job.resources.nodes > 1 or request.nodes is not None):
        if request.only_look and not ledger.instances():
            return ()
        return choose(request.host or job.host, job.resources.nodes)
    host = _host(request, job, ledger)
    return (host,) if host else ()


def _nodes(jobs: Jobs, job: JobSpec, group: str | None, hosts: Sequence[InstanceRow]) -> tuple[PlannedNode, ...]:
    """The machines that are open, else those of jobs.yaml that `gptops up` would open for the job."""
    names, count = [host.name for host in hosts], job.resources.nodes
    if len(names) < count and job.provider == "ssh":
        large = [members for name, members in jobs.groups.items() if len(members) >= count and group in (None, name)]
        names = [*large[0][:count]] if len(large) == 1 else names
    return tuple(PlannedNode(name, any(host.name == name for host in hosts)) for name in names)


def _host(request: LaunchRequest, job: JobSpec, ledger: Ledger) -> InstanceRow | None:
    if request.host is None and not ledger.instances():
        if request.only_look:
            return None
        gpus = f" --gpus {job.resources.gpus}" if job.resources.gpus else ""
        raise NotFound("no host is open to train on", hint=f"gptops up --provider {job.provider}{gpus}")
    return pick_host(ledger, request.host)
