"""Whether a host is a login node, and for which job what stands behind it is examined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from launcher.books.ledger import InstanceRow, InstanceState, Ledger
from launcher.clock import Clock
from launcher.errors import UsageError
from launcher.hosts.setup import setup_inputs
from launcher.nodes.compute import ComputePreflight
from launcher.project import Project
from launcher.remote.transport import Transport
from launcher.running.upload import remote_code
from launcher.slurm.clusters import cluster_for
from launcher.spec.jobs import JobSpec
from launcher.spec.jobs_file import Jobs, load_jobs
from launcher.spec.slurm import SlurmSpec


@dataclass(frozen=True)
class Behind:
    """An open login node, and a job for the machines behind it."""

    row: InstanceRow
    slurm: SlurmSpec
    job: JobSpec
    project: Project

    def preflight(
        self, transport: Transport, gpus: int | None, wait: float, clock: Clock, say: Callable[[str], None]
    ) -> ComputePreflight:
        """Of the machines; `gpus`: another number than the job's."""
        job = self.job
        if gpus is not None:
            job = job.model_copy(update={"resources": job.resources.model_copy(update={"gpus": gpus})})
        venv = setup_inputs(job.setup, remote_code(self.project)).venv
        return ComputePreflight(transport, job, self.slurm, venv, clock, say, wait)


def cluster_at(project: Project, ledger: Ledger, host: str | None, job: str | None) -> Behind | None:
    """The cluster that is meant; None where the host is none. Raises UsageError where `job` is for none."""
    there = ledger.instances(InstanceState.OPEN)
    if project.jobs_file is None or not any(row.provider == "ssh" for row in there):
        return None
    jobs = load_jobs(project.jobs_file)
    named = jobs.job(job).host if job is not None else None
    found = cluster_for(jobs.hosts, there, host, named, must_be_open=True)
    if found is None:
        if job is not None:
            raise UsageError("--job goes with a cluster", why="other machines are as they are", hint="--gpus")
        return None
    [row], slurm = found
    return Behind(row, slurm, jobs.job(job) if job is not None else _largest(jobs, slurm), project)


def _largest(jobs: Jobs, slurm: SlurmSpec) -> JobSpec:
    """Of the cluster's jobs; of none: one process on one machine."""
    ours = [job for job in jobs.jobs.values() if job.host in jobs.hosts and jobs.hosts[job.host].slurm == slurm]
    return max(
        ours or [JobSpec(stage="pretrain", provider="ssh")],
        key=lambda job: (job.resources.nodes, job.resources.gpus),
    )
