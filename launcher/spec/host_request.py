"""What `gptops up` was asked for: the job's wishes, under what the command line says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from launcher.errors import NotFound, UsageError
from launcher.project import Project
from launcher.providers.base import Wanted
from launcher.providers.static_host import StaticHost
from launcher.remote.host import Address, parse_address

if TYPE_CHECKING:
    from launcher.spec.jobs import HostSpec, JobSpec

DEFAULT_PROVIDER = "local"


@dataclass(frozen=True)
class Flags:
    """What the command line says; None where it says nothing."""

    provider: str | None = None
    host: str | None = None
    gpus: int | None = None
    gpu: str | None = None
    max_price: float | None = None
    job: str | None = None


@dataclass(frozen=True)
class HostRequest:
    """Where to ask, and for what."""

    provider: str
    wanted: Wanted
    image: str = ""
    offer_id: str | None = None
    """The one static machine that was named."""
    static_hosts: Mapping[str, StaticHost] | None = None
    job: JobSpec | None = None


def host_request(flags: Flags, project: Project) -> HostRequest:
    """Flags over the job, the job over nothing at all. Reads jobs.yaml only where something in it is named."""
    job, hosts = _from_file(flags, project)
    host = flags.host or (job.host if job else None)
    provider = flags.provider or ("ssh" if flags.host else job.provider if job else DEFAULT_PROVIDER)
    if host is not None and provider != "ssh":
        if flags.host is not None:
            raise UsageError(f"--host names a machine of yours, and --provider says `{provider}`", hint="leave one out")
        host = None
    statics = {name: _static(spec) for name, spec in hosts.items()}
    if host is not None and host not in statics:
        statics = {host: StaticHost(_address(host, statics, project))}
    if provider == "ssh" and not statics:
        raise UsageError(
            "there is no machine for the provider `ssh`",
            why="jobs.yaml has no `hosts`",
            hint="gptops up --host user@name:port, or write it under `hosts` in jobs.yaml",
        )
    return HostRequest(provider, _wanted(flags, job), job.image if job else "", host, statics, job)


def _from_file(flags: Flags, project: Project) -> tuple[JobSpec | None, Mapping[str, HostSpec]]:
    named = flags.job is not None or flags.provider == "ssh" or (flags.host is not None and "@" not in flags.host)
    if not named:
        return None, {}
    if project.jobs_file is None:
        if flags.job is None:
            return None, {}
        raise NotFound(f"there is no jobs.yaml in {project.root}", hint="gptops init")
    from launcher.spec.jobs_file import load_jobs  # late: pydantic and yaml, for those who name a job or a host

    jobs = load_jobs(project.jobs_file)
    return (jobs.job(flags.job) if flags.job else None), jobs.hosts


def _wanted(flags: Flags, job: JobSpec | None) -> Wanted:
    wanted = Wanted()
    if job is not None:
        asked = job.resources
        wanted = Wanted(
            asked.gpus, asked.gpu_names, asked.disk_gib, asked.max_price_per_hour, asked.min_reliability, asked.spot
        )
    if flags.gpus is not None:
        wanted = replace(wanted, gpus=flags.gpus)
    if flags.gpu is not None:
        wanted = replace(wanted, gpu_names=(flags.gpu,), gpus=wanted.gpus or 1)
    if flags.max_price is not None:
        wanted = replace(wanted, max_price_per_hour=flags.max_price)
    return wanted


def _static(spec: HostSpec) -> StaticHost:
    return StaticHost(Address(spec.host, spec.port, spec.user), spec.identity_file, spec.gpus, spec.gpu_name)


def _address(host: str, known: Mapping[str, StaticHost], project: Project) -> Address:
    if "@" in host or ":" in host:
        return parse_address(host)
    where = project.jobs_file or "jobs.yaml (there is none here)"
    raise NotFound(
        f"there is no host `{host}`",
        why=f"under `hosts` in {where} stand: {', '.join(known) or 'none'}",
        hint=f"gptops up --host user@{host}:22",
    )
