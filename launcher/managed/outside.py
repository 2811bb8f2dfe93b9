"""What an errand touches besides its own state: the books, providers, hosts, and who is told.

The loop knows these as values that are passed in, so the same loop runs against
clouds, against this machine, and against a world that a test keeps in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.books.budget import Limits
from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.books.spending import spent
from launcher.clock import Clock
from launcher.errors import NotFound, Unreachable
from launcher.hosts.preflight_checks import Check
from launcher.managed.errand import Errand
from launcher.managed.news import News
from launcher.managed.verdict import Stopped
from launcher.managed.view import View
from launcher.paths import LocalRun, StatePaths
from launcher.project import Project
from launcher.providers.base import Instance, Provider, Status
from launcher.remote.host import Host
from launcher.remote.ssh import host_of
from launcher.remote.transport import Connect, Transport
from launcher.running.tick import Talk
from launcher.slurm.clusters import is_login_node

if TYPE_CHECKING:
    from launcher.spec.jobs import JobSpec
    from launcher.spec.jobs_file import Jobs


@dataclass(frozen=True)
class Wish:
    """The machine an errand needs next."""

    name: str
    job_name: str
    job: JobSpec
    limits: Limits
    spent_usd: float
    """By the job so far."""
    hours: float
    """Since it began."""


@dataclass(frozen=True)
class Outside:
    """Everything around an errand."""

    ledger: Ledger
    state: StatePaths
    clock: Clock
    project: Project
    jobs: Jobs
    environment: Mapping[str, str]
    provider: Callable[[str], Provider]
    connect: Connect
    rent: Callable[[Wish], InstanceRow]
    """Opens a machine, or raises with nothing left open."""
    examine: Callable[[InstanceRow, Transport], list[Check]]
    """`test-remote`."""
    guard: Callable[[JobSpec, InstanceRow, Transport, float | None], InstanceRow]
    """Arms or renews the machine's dead-man's switch: so many hours from now, at most."""
    talk: Talk
    show: Callable[[View], None]
    """The live view, told after each look."""
    notify: Callable[[News], None]
    skip_setup: bool = False

    def job(self, errand: Errand) -> JobSpec:
        """What jobs.yaml says of the job at work."""
        return self.jobs.job(errand.job)

    def machine(self, errand: Errand) -> InstanceRow:
        """The machine at work. Raises Stopped where a person has ended it: then none is rented in its place."""
        row = self.ledger.instance(errand.label)
        if row.state in (InstanceState.CLOSING, InstanceState.CLOSED):
            raise Stopped(
                f"`{row.name}` was ended by `gptops down` or `gptops gc`",
                why="so the job was ended with it",
                hint=f"gptops run {errand.job}" + (f" --resume {errand.runs[-1]}" if errand.runs else ""),
            )
        return row

    def is_login_node(self, row: InstanceRow) -> bool:
        """Whether Slurm gives the machines behind it: it is the only one of its kind, and never the one that trains."""
        return is_login_node(self.jobs.hosts, row)

    def instance(self, row: InstanceRow) -> Instance | None:
        """The machine as its provider sees it now."""
        return self.provider(row.provider).get(row.instance_id) if row.instance_id else None

    def transport(self, row: InstanceRow, instance: Instance) -> Transport:
        """To where the machine is now. The caller closes it."""
        return self.connect(self.host(row, instance))

    def host(self, row: InstanceRow, instance: Instance) -> Host:
        return host_of(row, instance, self.state)

    def reached(self, row: InstanceRow) -> Transport:
        """The same, asking the provider first. Raises NotFound where the machine is gone or will not run again."""
        instance = self.instance(row)
        if instance is None or instance.status in (Status.STOPPED, Status.PREEMPTED, Status.FAILED):
            said = "gone" if instance is None else f"{instance.status.value} {instance.detail}"
            raise NotFound(f"`{row.name}` is lost", why=f"`{row.provider}` says: {said}", hint="gptops ps")
        if not instance.addresses:
            raise Unreachable(f"`{row.name}` has no address now", why=instance.detail, hint="gptops ps")
        return self.transport(row, instance)

    def machines(self, errand: Errand) -> list[InstanceRow]:
        """The machine at work, and those that were opened as one group with it and are not closed."""
        if not errand.label:
            return []
        row = self.ledger.instance(errand.label)
        return [row, *(other for other in self.ledger.group(row.group_name) if other.label != row.label)]

    def names(self, errand: Errand) -> list[str]:
        """Of the machines that the run at work is on; some of a group may be spare, or lost."""
        on = self.ledger.machines(self.ledger.run(errand.run_id))
        return [self.ledger.instance(label).name for label in on]

    def spent(self, errand: Errand) -> float:
        """US dollars, by the job at work."""
        return sum(self.spent_on(label) for label in errand.labels) - errand.spent_before

    def spent_on(self, label: str) -> float:
        """US dollars, by one machine."""
        return spent(self.ledger, label, self.clock.now()).total if label else 0.0

    def hours(self, errand: Errand) -> float:
        """Since the job at work began."""
        return 0.0 if errand.job_began is None else (self.clock.now() - errand.job_began) / 3600

    def limits(self, errand: Errand) -> Limits:
        """What the job at work may cost."""
        budget = self.job(errand).budget
        return Limits(budget.max_usd, budget.max_hours, budget.max_usd_per_hour)

    def runs_at_home(self, errand: Errand) -> list[LocalRun]:
        """Where checkpoints of the job at work may lie, oldest run first."""
        return [LocalRun(self.project.root / "runs" / run_id) for run_id in errand.runs]
