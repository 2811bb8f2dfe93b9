"""What `gptops check` finds out about a jobs.yaml: each job resolved, what it would train, and what stands against it.

Everything that can be wrong without a host is found here, on the laptop. It
opens nothing and prints nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from launcher.errors import JobsError
from launcher.running.snapshot import snapshot
from launcher.spec.jobs import JobSpec, require_supported
from launcher.spec.jobs_file import Jobs, resolve_train, shown
from trainer.config import ACCEPTED_STAGES, RunConfig, dump_yaml
from trainer.sizing import TrainingPlan, training_plan


@dataclass(frozen=True)
class CheckedJob:
    """A valid job, and what it means."""

    name: str
    spec: JobSpec
    config: RunConfig | None
    """None for a stage that this version does not have: nobody knows its keys yet."""
    plan: TrainingPlan | None
    warnings: tuple[str, ...]
    """With their place in the file."""

    @property
    def is_supported(self) -> bool:
        """Whether this version can run it."""
        return not self.spec.refusals

    def resolved(self) -> dict[str, Any]:
        """The job with every default filled in, as it could stand in a file."""
        job = self.spec.model_dump(mode="json")
        return {**job, "train": self.config.model_dump(mode="json")} if self.config else job

    def as_json(self) -> dict[str, Any]:
        """Everything about it, for `--json`."""
        plan = asdict(self.plan) if self.plan else None
        return {"supported": self.is_supported, "warnings": self.warnings, "job": self.resolved(), "plan": plan}

    def as_yaml(self) -> str:
        """The job as it could stand in a file, and the plan below it as comments."""
        plan = "".join(f"# {line}\n" for line in plan_lines(self.spec, self.plan)) if self.plan else ""
        return dump_yaml({"jobs": {self.name: self.resolved()}}) + plan


def plan_lines(spec: JobSpec, plan: TrainingPlan) -> list[str]:
    """What the job trains, how much of everything it takes, and what it may cost."""
    on = f"{plan.num_gpus} GPU{'s' * (plan.num_gpus > 1)}" if spec.resources.gpus else "the CPU"
    how = ", ".join((plan.precision, *plan.savings))
    lines = [
        f"parameters   {plan.parameters:,}",
        f"tokens       {plan.tokens:,} = {plan.steps:,} steps x {plan.tokens_per_step:,}",
        f"micro-steps  {plan.grad_accum_steps} a step on {on}",
        f"memory       {plan.memory.total / 2**30:.1f} GiB on each, in {how}, estimated",
        f"compute      {plan.flops:.2e} FLOPs",
    ]
    if spec.resources.gpus:
        hours = (f"{name} {seconds / 3600:,.1f} h" for name, seconds in plan.seconds_by_gpu.items())
        lines.append(f"time         estimated at {plan.assumed_mfu:.0%} of the peak: {', '.join(hours)}")
    if (most := most_usd(spec)) is not None:
        lines.append(f"cost         at most {most:,.2f} USD")
    return lines


def most_usd(spec: JobSpec) -> float | None:
    """What the budget lets it cost; None where there is no limit."""
    price, hours = spec.resources.max_price_per_hour, spec.budget.max_hours
    limits = [spec.budget.max_usd, price * hours if price and hours else None]
    return min((limit for limit in limits if limit is not None), default=None)


def overview(checked: Sequence[CheckedJob]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """The file at a glance: columns, and a row a job."""
    columns = ("job", "stage", "provider", "gpus", "parameters", "tokens/step", "steps", "can run")
    rows: list[tuple[object, ...]] = []
    for job in checked:
        plan = job.plan
        sizes = (f"{plan.parameters:,}", f"{plan.tokens_per_step:,}", f"{plan.steps:,}") if plan else (None,) * 3
        verdict = "yes" if job.is_supported else f"no: {' and '.join(key for key, _ in job.spec.refusals)}"
        rows.append((job.name, job.spec.stage, job.spec.provider, job.spec.resources.gpus, *sizes, verdict))
    return columns, rows


def check_file(jobs: Jobs, overrides: Sequence[str] = ()) -> list[CheckedJob]:
    """Every job of the file. Raises JobsError with the problems of all; a job of a later version is no problem."""
    checked, problems = [], []
    for name in jobs.jobs:
        try:
            checked.append(_checked(jobs, name, overrides))
        except JobsError as error:
            problems += [line for line in error.what.split("\n") if line.strip() not in problems]
    if problems:
        raise JobsError("\n".join(dict.fromkeys(line.strip() for line in problems)), hint="gptops schema --markdown")
    return checked


def check_job(jobs: Jobs, name: str, overrides: Sequence[str] = ()) -> CheckedJob:
    """One job, which must also be one that this version runs. Raises JobsError or NotFound."""
    checked = _checked(jobs, name, overrides)
    require_supported(checked.spec, name, shown(jobs.path))
    return checked


def _checked(jobs: Jobs, name: str, overrides: Iterable[str]) -> CheckedJob:
    spec = jobs.job(name)
    warnings = [f"jobs.{name}.{key}: {reason}" for key, reason in spec.refusals]
    if spec.stage not in ACCEPTED_STAGES:
        return CheckedJob(name, spec, None, None, tuple(warnings))
    config = resolve_train(spec, name, jobs, overrides)
    plan = training_plan(config, num_gpus=spec.processes_per_node * spec.resources.nodes)
    if not spec.refusals:
        files = [source for source in config.data.parts() if config.data.is_local(source)]
        files += [config.data.tokenizer.path] if config.data.tokenizer.path else []
        warnings += [f"jobs.{name}.train.data: {doubt}" for source in files for doubt in _data_doubts(jobs, source)]
        unset = [secret for secret in spec.secrets if not os.environ.get(secret)]
        warnings += [f"jobs.{name}.secrets: `{secret}` is not set in this shell" for secret in unset]
    return CheckedJob(name, spec, config, plan, tuple(warnings))


def _data_doubts(jobs: Jobs, path: str) -> Iterator[str]:
    """A corpus that the host will not have fails there, after it was paid for."""
    if PurePosixPath(path).is_absolute():
        return
    root = jobs.path.absolute().parent
    if not (root / path).exists():
        yield f"there is no `{path}` here to upload; the host must have it"
        return
    name = str(PurePosixPath(path))
    if name != "." and not any(file == name or file.startswith(f"{name}/") for file in snapshot(root).files):
        yield f"`{path}` is left out of the upload (.gitignore?); the host must have it"
