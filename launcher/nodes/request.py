"""Which machines `gptops up --nodes N` opens: a group of jobs.yaml, as whole HostPlans. Nothing is asked yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from launcher.errors import JobsError, NotFound, UsageError
from launcher.hosts.planning import HostPlan, plan_for
from launcher.hosts.setup import SetupInputs, setup_inputs
from launcher.project import Project
from launcher.providers.base import Offer, Wanted
from launcher.providers.ssh import READY_SECONDS
from launcher.providers.static_host import StaticHost
from launcher.remote.host import Address
from launcher.slurm.clusters import slurm_named
from launcher.spec.host_request import Flags
from launcher.spec.jobs import HostSpec, JobSpec
from launcher.spec.jobs_file import Jobs, load_jobs
from launcher.spec.together import require_one


@dataclass(frozen=True)
class GroupRequest:
    """A group, about to be opened."""

    name: str
    plans: tuple[HostPlan, ...]
    hosts: Mapping[str, StaticHost]
    setup: SetupInputs | None
    """None where it runs lines in the code, which `gptops train` has to upload first."""


def group_request(flags: Flags, nodes: int | None, project: Project) -> GroupRequest | None:
    """The group that is meant; None where one machine is. Raises what is wrong with the question."""
    if project.jobs_file is None:
        if (nodes or 1) > 1:
            require_one(flags.provider or "", nodes or 1)
            raise NotFound(f"there is no jobs.yaml in {project.root}", why="groups stand there", hint="gptops init")
        return None
    if flags.job is None and (nodes or 1) == 1:
        return None
    jobs = load_jobs(project.jobs_file)
    job = jobs.job(flags.job) if flags.job else None
    count = nodes or (job.resources.nodes if job else 1)
    if count == 1 or slurm_named(jobs.hosts, flags.host or (job.host if job else None)):
        return None  # on a cluster the login node alone is opened; Slurm gives the others
    provider = flags.provider or (job.provider if job and flags.host is None else "ssh")
    require_one(provider, count)
    if provider != "ssh":
        what = f"--host names machines of yours, and the provider is `{provider}`"
        raise UsageError(what, hint="leave one of them out" if flags.provider else f"--provider {provider}")
    name = flags.host or (job.host if job else None) or _only_group(jobs, count)
    return _request(jobs, name, count, flags, job, project)


def _only_group(jobs: Jobs, count: int) -> str:
    fitting = [name for name, members in jobs.groups.items() if len(members) >= count]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(f"{name} ({len(members)})" for name, members in jobs.groups.items()) or "none"
    raise UsageError(
        f"which {count} machines?" if fitting else f"no group has {count} machines",
        why=f"groups in jobs.yaml: {known}",
        hint=f"gptops up --nodes {count} --host {fitting[0] if fitting else 'GROUP'}",
    )


def _request(jobs: Jobs, name: str, count: int, flags: Flags, job: JobSpec | None, project: Project) -> GroupRequest:
    members = jobs.groups.get(name)
    if members is None:
        known = ", ".join(jobs.groups) or "none"
        raise NotFound(f"there is no group `{name}`", why=f"groups in jobs.yaml: {known}", hint="docs/nodes.md")
    if len(members) < count:
        raise JobsError(f"the group `{name}` has {len(members)} machines, {count} were asked for", hint="gptops check")
    wanted = _wanted(flags, job)
    chosen = {member: jobs.hosts[member] for member in members[:count]}
    setup = setup_inputs(job.setup if job else None)
    return GroupRequest(
        name,
        tuple(_plan(member, spec, wanted, name, project) for member, spec in chosen.items()),
        {member: static_host(spec) for member, spec in chosen.items()},
        None if setup.shell else setup,
    )


def _wanted(flags: Flags, job: JobSpec | None) -> Wanted:
    wanted = Wanted(job.resources.gpus, job.resources.gpu_names, job.resources.disk_gib) if job else Wanted()
    if flags.gpus is not None:
        wanted = replace(wanted, gpus=flags.gpus)
    if flags.gpu is not None:
        wanted = replace(wanted, gpu_names=(flags.gpu,), gpus=wanted.gpus or 1)
    return wanted


def _plan(member: str, spec: HostSpec, wanted: Wanted, group: str, project: Project) -> HostPlan:
    gpus = spec.gpus or wanted.gpus
    offer = Offer("ssh", member, member, gpus, spec.gpu_name, 0.0, ready_within_seconds=READY_SECONDS)
    plan = plan_for(offer, wanted, project=project.name, image="")
    return replace(plan, group_name=group, inside=spec.inside or spec.host)


def static_host(spec: HostSpec) -> StaticHost:
    """A machine of jobs.yaml, as its provider knows it."""
    return StaticHost(Address(spec.host, spec.port, spec.user), spec.identity_file, spec.gpus, spec.gpu_name)
