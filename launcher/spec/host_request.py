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
from launcher.spec.defaults import DEFAULT_DISK_GIB, DEFAULT_IMAGE, DEFAULT_MIN_RELIABILITY

if TYPE_CHECKING:
    from launcher.spec.jobs import HostSpec, JobSpec
    from trainer.config import RunConfig

DEFAULT_PROVIDER = "local"
OWN = ("local", "ssh")
"""Who gives machines that nobody bills."""


@dataclass(frozen=True)
class Flags:
    """What the command line says; None where it says nothing."""

    provider: str | None = None
    host: str | None = None
    gpus: int | None = None
    gpu: str | None = None
    max_price: float | None = None
    job: str | None = None
    disk: int | None = None
    min_reliability: float | None = None
    regions: tuple[str, ...] = ()
    spot: bool | None = None
    bid: float | None = None
    offer: str | None = None


@dataclass(frozen=True)
class HostRequest:
    """Where to ask, and for what."""

    provider: str
    wanted: Wanted
    image: str = ""
    offer_id: str | None = None
    """The one offer, or the one static machine, that was named."""
    static_hosts: Mapping[str, StaticHost] | None = None
    job: JobSpec | None = None
    train: RunConfig | None = None
    """What the job trains: what a machine would cost is reckoned from it."""


def host_request(flags: Flags, project: Project) -> HostRequest:
    """Flags over the job, the job over nothing at all. Reads jobs.yaml only where something in it is named."""
    job, train, hosts = _from_file(flags, project)
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
    rented = provider not in OWN
    if not rented and (market := _for_markets(flags)):
        raise UsageError(f"{market} goes with a market, not with `{provider}`", hint="gptops offers")
    image = job.image if job else DEFAULT_IMAGE if rented else ""
    wanted = _wanted(flags, job, rented=rented)
    if host is not None and host in hosts and hosts[host].scheduler:
        wanted = Wanted()  # a login node: the machines that train are the scheduler's to give
    return HostRequest(provider, wanted, image, flags.offer or host, statics, job, train)


def _from_file(flags: Flags, project: Project) -> tuple[JobSpec | None, RunConfig | None, Mapping[str, HostSpec]]:
    named = flags.job is not None or flags.provider == "ssh" or (flags.host is not None and "@" not in flags.host)
    if not named:
        return None, None, {}
    if project.jobs_file is None:
        if flags.job is None:
            return None, None, {}
        raise NotFound(f"there is no jobs.yaml in {project.root}", hint="gptops init")
    from launcher.spec.jobs_file import load_jobs, resolve_train  # late: pydantic and yaml, where something is named

    jobs = load_jobs(project.jobs_file)
    if flags.job is None:
        return None, None, jobs.hosts
    job = jobs.job(flags.job)
    return job, resolve_train(job, flags.job, jobs), jobs.hosts


def _wanted(flags: Flags, job: JobSpec | None, *, rented: bool) -> Wanted:
    # Nobody rents a machine of a GPU market for its CPU without saying so.
    wanted = Wanted(1, (), DEFAULT_DISK_GIB, min_reliability=DEFAULT_MIN_RELIABILITY) if rented else Wanted()
    if job is not None:
        asked = job.resources
        wanted = Wanted(
            asked.gpus, asked.gpu_names, asked.disk_gib, asked.max_price_per_hour, asked.min_reliability, asked.spot,
            asked.bid, asked.regions,
        )  # fmt: skip
    if flags.gpus is not None:
        wanted = replace(wanted, gpus=flags.gpus)
    if flags.gpu is not None:
        wanted = replace(wanted, gpu_names=(flags.gpu,), gpus=wanted.gpus or 1)
    if flags.disk is not None:
        wanted = replace(wanted, disk_gib=flags.disk)
    wanted = _choosy(flags, wanted)
    # What a job says about markets does not keep it from a machine of one's own.
    return wanted if rented else replace(wanted, spot=False, bid=None, regions=())


def _for_markets(flags: Flags) -> str:
    """The first flag that means nothing for a machine of one's own."""
    given = {"--offer": flags.offer, "--spot": flags.spot, "--region": flags.regions, "--bid": flags.bid}
    return next((name for name, value in given.items() if value), "")


def _choosy(flags: Flags, wanted: Wanted) -> Wanted:
    """What the command line says about price, place and kind."""
    if flags.max_price is not None:
        wanted = replace(wanted, max_price_per_hour=flags.max_price)
    if flags.min_reliability is not None:
        wanted = replace(wanted, min_reliability=flags.min_reliability)
    if flags.regions:
        wanted = replace(wanted, regions=flags.regions)
    if flags.spot is not None:
        wanted = replace(wanted, spot=flags.spot, bid=wanted.bid if flags.spot else None)
    if flags.bid is not None:
        wanted = replace(wanted, bid=flags.bid)
    if wanted.bid is not None and not wanted.spot:
        raise UsageError("a bid goes with a spot machine", hint=f"--spot --bid {wanted.bid:g}")
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
