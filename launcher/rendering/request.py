"""From what was typed after `gptops render` to a text, or to the first thing that is wrong with it.

Reads jobs.yaml. Asks no host, no provider and no environment: secrets stay names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import JobsError, NotFound, UsageError
from launcher.project import JOBS_FILE, find_project
from launcher.rendering.accelerate import accelerate_script
from launcher.rendering.skypilot import skypilot_task
from launcher.rendering.torchrun import torchrun_script
from launcher.slurm.batch import Batch, require_startable
from launcher.slurm.clusters import slurm_named
from launcher.spec.chain import PREFIX
from launcher.spec.jobs import JobSpec
from launcher.spec.jobs_file import Jobs, load_jobs, resolve_train
from launcher.spec.slurm import SlurmSpec
from trainer.config import RunConfig, did_you_mean

TARGETS = ("slurm", "skypilot", "accelerate", "torchrun")


@dataclass(frozen=True)
class RenderRequest:
    """The words of the command line."""

    job: str
    target: str
    overrides: Sequence[str] = ()
    host: str | None = None
    """With `slurm`: the entry under `hosts` that says partition, account and the like."""


def rendered(request: RenderRequest, *, start: Path) -> str:
    """The text. Raises UsageError, NotFound or JobsError."""
    if request.target not in TARGETS:
        meant = did_you_mean(request.target, TARGETS)
        raise UsageError(f"nothing is rendered for `{request.target}`{meant}", hint=f"--for {', '.join(TARGETS)}")
    if request.host is not None and request.target != "slurm":
        raise UsageError("--host says which cluster", hint="--for slurm")
    project = find_project(start)
    jobs = load_jobs(project.jobs_file or Path(JOBS_FILE))
    job = jobs.job(request.job)
    config = resolve_train(job, request.job, jobs, request.overrides)
    _require_portable(config, request.job)
    if request.target == "slurm":
        require_startable(job, request.job)
        return Batch(job, _slurm(request, job, jobs)).by_hand(request.job, config)
    writers = {"skypilot": skypilot_task, "accelerate": accelerate_script, "torchrun": torchrun_script}
    return writers[request.target](request.job, job, config)


def _require_portable(config: RunConfig, job_name: str) -> None:
    """`job:NAME` means a checkpoint that gptops finds at home and brings along."""
    if config.model.init_from.startswith(PREFIX):
        earlier = config.model.init_from.removeprefix(PREFIX)
        raise JobsError(
            f"jobs.{job_name} begins from the job `{earlier}`, which nobody but gptops can look up",
            why="its newest checkpoint lies at home, and the text would run elsewhere",
            hint=f"gptops render {job_name} … model.init_from=runs/{earlier}-…/checkpoints/step_…",
        )


def _slurm(request: RenderRequest, job: JobSpec, jobs: Jobs) -> SlurmSpec:
    """The named cluster's, else the job's, else that of the only one; else what every cluster takes."""
    if request.host is not None:
        found = slurm_named(jobs.hosts, request.host)
        if found is None:
            clusters = [name for name, spec in jobs.hosts.items() if spec.scheduler]
            raise NotFound(
                f"`{request.host}` is no host with `scheduler: slurm`",
                why=f"under `hosts` stand: {', '.join(clusters) or 'none'}",
                hint=f"gptops render {request.job} --for slurm",
            )
        return found
    known = [spec.slurm for spec in jobs.hosts.values() if spec.scheduler]
    return slurm_named(jobs.hosts, job.host) or (known[0] if len(known) == 1 else SlurmSpec())
