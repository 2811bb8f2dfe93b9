"""The outside of an errand as it is on this computer: clouds, SSH, the ledger, the terminal's words."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.clock import Clock
from launcher.errors import NotFound
from launcher.hosts.closing import finish_leftovers
from launcher.hosts.deadman import Armer
from launcher.hosts.opening import Guard
from launcher.hosts.preflight import examine
from launcher.hosts.preflight_checks import Asked, Check
from launcher.hosts.setup import setup_inputs
from launcher.hosts.steps import Steps
from launcher.managed.errand import Errand
from launcher.managed.news import News
from launcher.managed.notice import notifier
from launcher.managed.outside import Outside, Wish
from launcher.managed.view import View
from launcher.nodes.choosing import open_group
from launcher.nodes.cluster_renting import ClusterRenter
from launcher.nodes.market import ClusterRequest, cluster_request
from launcher.nodes.opening import GroupOpener, connected
from launcher.nodes.preflight import NodesPreflight
from launcher.nodes.request import group_request
from launcher.paths import StatePaths
from launcher.project import Project
from launcher.providers.base import Provider
from launcher.providers.by_name import open_networks, open_provider
from launcher.remote.host import Host
from launcher.remote.ssh import SshTransport
from launcher.remote.transport import Transport
from launcher.renting.asking import rent_request
from launcher.renting.guarding import guard_for
from launcher.renting.market import RentRequest
from launcher.renting.renter import Renter
from launcher.running.tick import Talk
from launcher.slurm.clusters import cluster_for, is_login_node, slurm_named
from launcher.spec.groups import meeting_port
from launcher.spec.host_request import Flags, HostRequest, host_request
from launcher.spec.jobs import JobSpec, require_supported
from launcher.spec.jobs_file import Jobs, load_jobs, resolve_train, shown
from launcher.spec.secrets import secret_values


@dataclass(frozen=True)
class Choices:
    """What the command line says besides the jobs."""

    skip_setup: bool = False
    skip_test: bool = False


@dataclass(frozen=True)
class Here:
    """Makes the parts of an Outside."""

    project: Project
    jobs: Jobs
    ledger: Ledger
    state: StatePaths
    clock: Clock
    steps: Steps
    talk: Talk
    choices: Choices

    def outside(self, errand: Errand, show: Callable[[View], None]) -> Outside:
        """Everything around this errand."""
        return Outside(
            ledger=self.ledger,
            state=self.state,
            clock=self.clock,
            project=self.project,
            jobs=self.jobs,
            environment=os.environ,
            provider=lambda name: self.provider(name, errand.job),
            connect=self.connect,
            rent=self.rent,
            examine=self.examine,
            guard=self.guard,
            talk=self.talk,
            show=show,
            notify=self.notify,
            skip_setup=self.choices.skip_setup,
        )

    def provider(self, name: str, job: str) -> Provider:
        """The provider called `name`, with the static machines that the project knows."""
        if self.jobs.job(job).resources.nodes > 1:
            return open_provider(name, self.state, clock=self.clock)  # only the group's opening needs to know them
        return open_provider(name, self.state, clock=self.clock, hosts=self._asked(job).static_hosts)

    def connect(self, host: Host) -> Transport:
        return SshTransport(host, self.clock, control_sockets=self.state.control_sockets)

    def rent(self, wish: Wish) -> InstanceRow:
        """The best machine on offer for the job, set up; or the first of its group, which is open then."""
        if slurm_named(self.jobs.hosts, wish.job.host) is not None:
            return self._meet_login_node(wish)
        if wish.job.resources.nodes > 1:
            return self._rent_group(wish)
        return self._rent_one(wish, wish.name)

    def _rent_one(self, wish: Wish, name: str | None) -> InstanceRow:
        asked = self._asked(wish.job_name)
        provider = open_provider(asked.provider, self.state, clock=self.clock, hosts=asked.static_hosts)
        request = _paid(rent_request(asked, self.project.name, name=name), wish)
        guard = guard_for(asked, request, provider, self._armer(self.ledger))
        renter = Renter(provider, self.ledger, self.state, self.clock, self.steps, guard=guard)
        # Lines of the job's own run in the uploaded code: launching does them.
        set_up = not self.choices.skip_setup and not wish.job.setup.shell
        return renter.rent(request, setup_inputs(wish.job.setup) if set_up else None)

    def examine(self, row: InstanceRow, transport: Transport) -> list[Check]:
        """`test-remote`."""
        if self.choices.skip_test:
            return []
        with tempfile.TemporaryDirectory(prefix="gptops-") as scratch:
            if row.group_name:
                return self._examine_group(row, Path(scratch))
            trains = not is_login_node(self.jobs.hosts, row)
            return examine(transport, asked_of(row), self.clock, Path(scratch), self.steps.note, trains=trains)

    def _meet_login_node(self, wish: Wish) -> InstanceRow:
        """Open already, it is taken as it is. It stays open afterwards: it is the user's, and nobody bills it."""
        there = self.ledger.instances(InstanceState.OPEN)
        found = cluster_for(self.jobs.hosts, there, wish.job.host, None, must_be_open=False)
        assert found is not None
        if found[0]:
            return found[0][0]
        finish_leftovers(self.ledger, self.state, self.clock, self.steps.note)
        return self._rent_one(wish, None)

    def _rent_group(self, wish: Wish) -> InstanceRow:
        """Open already, it is taken as it is: it may have machines to spare."""
        wanted = cluster_request(Flags(job=wish.job_name), None, self.project, name=wish.name)
        if wanted is not None:
            return self._rent_cluster(wanted, wish)
        request = group_request(Flags(job=wish.job_name), None, self.project)
        assert request is not None
        there = open_group(self.ledger, request.name)
        if len(there) >= wish.job.resources.nodes:
            return there[0]
        if self.choices.skip_setup:
            request = replace(request, setup=None)
        return GroupOpener(self.state, self.clock, self.steps.note).open(request)[0]

    def _rent_cluster(self, wanted: ClusterRequest, wish: Wish) -> InstanceRow:
        """Rented machines, under the errand's name: those that a killed gptops had opened whole, or new ones."""
        finish_leftovers(self.ledger, self.state, self.clock, self.steps.note)
        there = self.ledger.group(wish.name, InstanceState.OPEN)
        if len(there) >= wanted.request.nodes:
            return there[0]
        provider = self.provider(wanted.asked.provider, wish.job_name)
        request = _paid(wanted.request, wish)

        def guard(own: Ledger) -> Guard:
            return guard_for(wanted.asked, request, provider, self._armer(own))

        networks = open_networks(wanted.asked.provider, self.clock)
        renter = ClusterRenter(provider, networks, self.ledger, self.state, self.clock, self.steps.note, guard)
        return renter.rent(request, None if self.choices.skip_setup else wanted.setup)[0]

    def _examine_group(self, row: InstanceRow, scratch: Path) -> list[Check]:
        rows, port = open_group(self.ledger, row.group_name), meeting_port(self.jobs.jobs, row.group_name)
        with connected(rows, self.state, self.clock) as there:
            asked, insides = [asked_of(each) for each in rows], [each.inside for each in rows]
            return NodesPreflight(there, insides, asked, None, port, self.clock, scratch, self.steps.note).checks()

    def guard(self, job: JobSpec, row: InstanceRow, transport: Transport, hours: float | None) -> InstanceRow:
        """Arm the dead-man's switch of a machine that bills; the row, with its deadline."""
        off_switch = open_provider(row.provider, self.state).off_switch
        idle_minutes = job.budget.idle_minutes
        return self._armer(self.ledger).arm(row, off_switch, transport, hours=hours, idle_minutes=idle_minutes)

    def notify(self, news: News) -> None:
        """Tell whom the news' job names."""
        notifier(self.jobs.job(news.job).notify, self.talk.notice)(news)

    def _armer(self, ledger: Ledger) -> Armer:
        return Armer(ledger, self.state, self.clock, self.talk.notice)

    def _asked(self, job: str) -> HostRequest:
        return host_request(Flags(job=job), self.project)


def _paid(request: RentRequest, wish: Wish) -> RentRequest:
    """The same with what the job may still cost."""
    return replace(request, limits=wish.limits, spent_usd=wish.spent_usd, hours=wish.hours)


def asked_of(row: InstanceRow) -> Asked:
    """What the machine was opened for."""
    return Asked(row.name, row.gpus, (row.gpu_name,) if row.gpu_name else ())


def checked_jobs(project: Project, names: tuple[str, ...]) -> Jobs:
    """jobs.yaml, after everything was checked that can be without a machine: each job, its training, its secrets."""
    if project.jobs_file is None:
        raise NotFound(f"there is no jobs.yaml in {project.root}", hint="gptops init")
    jobs = load_jobs(project.jobs_file)
    for name in names:
        job = jobs.job(name)
        require_supported(job, name, shown(jobs.path))
        resolve_train(job, name, jobs)
        secret_values(job.secrets, os.environ, job_name=name)
    return jobs
