"""What `gptops up --nodes N` asks a market for: machines of one cluster. None where something else is meant."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.errors import UsageError
from launcher.hosts.setup import SetupInputs, setup_inputs
from launcher.project import Project
from launcher.providers.by_name import NETWORKED
from launcher.renting.asking import rent_request
from launcher.renting.market import DEADLINE_SECONDS, TRIES, RentRequest
from launcher.renting.ranking import SortBy
from launcher.spec.host_request import Flags, HostRequest, host_request
from launcher.spec.jobs_file import load_jobs


@dataclass(frozen=True)
class ClusterRequest:
    """Several machines of one cluster, about to be rented."""

    asked: HostRequest
    """What each of them must have."""
    request: RentRequest
    setup: SetupInputs | None
    """None where it runs lines in the code, which `gptops train` has to upload first."""


def _meant(flags: Flags, nodes: int | None, project: Project) -> tuple[str, int]:
    """Whose machines, and how many: the command line's word over the job's."""
    if flags.job is None or project.jobs_file is None:
        return flags.provider or "", nodes or 1
    job = load_jobs(project.jobs_file).job(flags.job)
    return flags.provider or job.provider, nodes or job.resources.nodes


def cluster_request(
    flags: Flags,
    nodes: int | None,
    project: Project,
    *,
    name: str | None = None,
    deadline_seconds: float = DEADLINE_SECONDS,
    tries: int = TRIES,
) -> ClusterRequest | None:
    """The machines that are meant; None where it is one machine, or the provider makes no private networks."""
    provider, count = _meant(flags, nodes, project)
    if count == 1 or flags.host is not None or provider not in NETWORKED:
        return None
    asked = host_request(flags, project)
    if asked.offer_id is not None:
        raise UsageError(
            f"--offer names one machine, and {count} are wanted",
            why="they are taken together, of one cluster",
            hint=f"gptops offers --provider {asked.provider} --nodes {count}",
        )
    request = rent_request(
        asked,
        project.name,
        name=name,
        sort=SortBy.COST,
        deadline_seconds=deadline_seconds,
        tries=tries,
        nodes=count,
    )
    setup = setup_inputs(asked.job.setup if asked.job else None)
    return ClusterRequest(asked, request, None if setup.shell else setup)
