"""What `gptops train` is about to do, complete and before anything is touched. Pure.

`--dry-run` prints it, `launcher.running.launch` carries it out. Secrets are in it as
values only until run.env is written; whatever is shown of it is masked.
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from launcher.commands import runs as commands
from launcher.commands.runs import RunFile
from launcher.hosts.setup import SetupInputs, setup_inputs
from launcher.paths import LocalRun, RemoteRun
from launcher.project import Project
from launcher.remote.transport import Command
from launcher.running.render import template
from launcher.running.run_env import refuse_reserved, run_env
from launcher.running.snapshot import Snapshot
from launcher.running.starters import Start, start_of
from launcher.running.upload import preview, remote_code
from launcher.slurm import batch as batches
from launcher.slurm.batch import Batch, require_startable
from launcher.spec.jobs import JobSpec
from launcher.spec.secrets import masked
from launcher.spec.slurm import SlurmSpec
from trainer.config import RunConfig, dump_yaml


@dataclass(frozen=True)
class PlannedNode:
    """A machine of a run on several."""

    name: str
    is_open: bool


@dataclass(frozen=True)
class LaunchPlan:
    """One run, as it will be made."""

    run_id: str
    job_name: str
    job: JobSpec
    config: RunConfig
    project: Project
    code: Snapshot
    setup: SetupInputs
    start: Start
    host_name: str | None
    """None where no host is open yet: such a plan can be looked at, not carried out."""
    skip_setup: bool = False
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    resume_from: Path | None = None
    """A checkpoint at home that the run goes on from; its run's metrics go with it."""
    begin_from: Path | None = None
    """A checkpoint of an earlier job at home, whose weights and tokenizer the run begins with."""
    slurm: SlurmSpec | None = None
    """What the cluster wants to be told, where the host is its login node: then Slurm starts the training."""
    nodes: tuple[PlannedNode, ...] = ()
    """Of a run on several machines: which."""

    @property
    def is_on_nodes(self) -> bool:
        """Whether gptops brings several machines together; on a cluster Slurm does."""
        return self.job.resources.nodes > 1 and self.slurm is None

    @property
    def remote(self) -> RemoteRun:
        return RemoteRun(self.run_id)

    @property
    def local(self) -> LocalRun:
        return LocalRun(self.project.root / "runs" / self.run_id)

    @property
    def upload_target(self) -> PurePosixPath:
        return remote_code(self.project)

    @property
    def train_yaml(self) -> str:
        """The training configuration with every default; its outputs go to the run's folder."""
        return dump_yaml(self.config.model_dump(mode="json"))

    def environment(self, secrets: Mapping[str, str]) -> dict[str, str]:
        """run.env, in the order it is written: ours, the job's, the secrets."""
        ours = {
            "GPTOPS_RUN_ID": self.run_id,
            **({} if self.slurm else {"GPTOPS_STARTER": shlex.join(self.start.starter)}),
            "GPTOPS_COMMAND": shlex.join(self.start.training),
            "GPTOPS_VENV": f"../venvs/{self.setup.key}",
        }
        return {**ours, **self.start.environment, **self.job.env, **secrets}

    def files(self) -> tuple[RunFile, ...]:
        """What the run's folder gets beside the code."""
        return (
            RunFile("run.env", run_env(self.environment(self.secrets)), 0o600),
            RunFile("train.yaml", self.train_yaml.encode()),
            RunFile("run.sh", template("run.sh").encode(), 0o755),
            RunFile("setup.sh", template("setup.sh").encode(), 0o755),
            *self._batch_files(),
        )

    @property
    def batch(self) -> str | None:
        """What sbatch is given, where Slurm starts the training."""
        return None if self.slurm is None else Batch(self.job, self.slurm).of_run(self.run_id)

    def _batch_files(self) -> tuple[RunFile, ...]:
        if (batch := self.batch) is None:
            return ()
        return RunFile(batches.FILE, batch.encode(), 0o755), RunFile(batches.SCRIPT, template(batches.SCRIPT).encode())

    def commands(self) -> tuple[Command, ...]:
        """What is typed on the host once code and environment are there."""
        prepare = commands.prepare_run(self.remote, self.upload_target, self.files())
        return prepare, commands.start_run(self.remote)


def plan_run(
    project: Project,
    job_name: str,
    job: JobSpec,
    config: RunConfig,
    code: Snapshot,
    *,
    run_id: str,
    host: tuple[str, int] | None,
    secrets: Mapping[str, str],
    skip_setup: bool = False,
    slurm: SlurmSpec | None = None,
) -> LaunchPlan:
    """The plan for a run on `host` (its name and GPUs). Raises JobsError or HostUnfit where it could not work."""
    refuse_reserved([*job.env, *job.secrets], job_name=job_name)
    name, gpus = host or (None, job.resources.gpus)
    if slurm is not None:
        require_startable(job, job_name)
        gpus = job.resources.gpus  # the login node's own do not matter; Slurm gives what the job asks for
    return LaunchPlan(
        run_id=run_id,
        job_name=job_name,
        job=job,
        config=config.model_copy(update={"out_dir": OUT_DIR}),
        project=project,
        code=code,
        setup=setup_inputs(job.setup, remote_code(project)),
        start=start_of(job, host_gpus=gpus),
        host_name=name,
        skip_setup=skip_setup,
        secrets=secrets,
        slurm=slurm,
    )


OUT_DIR = ".."
"""The run's folder, seen from the code, where the training runs: a relative path needs no quoting anywhere."""


def new_run_id(job_name: str, now: float, unique: str) -> str:
    """`demo-1017-1612-3f2a`: what it is, when it began (UTC), and something nobody else has."""
    began = datetime.datetime.fromtimestamp(now, tz=datetime.timezone.utc)
    return f"{job_name.lower()}-{began:%m%d-%H%M}-{unique}"


def plan_text(plan: LaunchPlan) -> str:
    """The plan for people, secrets masked."""
    on = "GPUs" if plan.job.resources.gpus else "CPU"
    each = " on each node" if plan.is_on_nodes else ""
    rows = [
        ("run", plan.run_id),
        ("nodes", _nodes_text(plan)) if plan.is_on_nodes else ("host", plan.host_name or "none is open yet"),
        ("at home", str(plan.local.root.relative_to(plan.project.root))),
        ("processes", f"{plan.start.processes} on {on}{each}, by {plan.job.launcher}"),
        ("setup", "skipped" if plan.skip_setup else f"gptops/venvs/{plan.setup.key}, unless it is there already"),
    ]
    lines = [f"{name + ':':<11}{value}" for name, value in rows]
    lines += [f"{'upload:' if i == 0 else '':<11}{line}" for i, line in enumerate(preview(plan.code))]
    lines += ["", f"files in {plan.remote.root}:"]
    lines += [f"  {file.mode:o} {file.name}" for file in plan.files()]
    lines += ["", "run.env:", *_indented(run_env(plan.environment(masked(plan.secrets))).decode(errors="replace"))]
    lines += ["", "train.yaml:", *_indented(plan.train_yaml)]
    lines += ["", "what is typed there:"]
    for command in plan.commands():
        lines += _indented(f"{command}{'   < run.env train.yaml run.sh setup.sh' if command.stdin else ''}")
    training = shlex.join(plan.start.training)
    if (batch := plan.batch) is not None:
        submitted = [line for line in batch.splitlines() if line.startswith("#SBATCH")]
        lines += ["", "what that submits:", *_indented("\n".join(submitted)), f"  and each process runs: {training}"]
    else:
        starter = shlex.join(plan.start.starter)
        where = f"{each}, told where they meet once they have met" if each else ""
        lines += [
            "",
            f"what that starts{where}:",
            f"  {starter} sh ./run.sh worker",
            f"  and each of these: {training}",
        ]
    return "\n".join(lines)


def _nodes_text(plan: LaunchPlan) -> str:
    if not plan.nodes:
        return f"{plan.job.resources.nodes}, and none is open yet: gptops up --job {plan.job_name}"
    names, closed = ", ".join(node.name for node in plan.nodes), [node.name for node in plan.nodes if not node.is_open]
    return f"{names}; not open yet: {', '.join(closed)}" if closed else names


def plan_json(plan: LaunchPlan) -> dict[str, Any]:
    """The plan for programs, secrets masked."""
    return {
        "run_id": plan.run_id,
        "job": plan.job_name,
        "host": plan.host_name,
        "nodes": [{"name": node.name, "open": node.is_open} for node in plan.nodes],
        "local_root": str(plan.local.root),
        "remote_root": str(plan.remote.root),
        "processes": plan.start.processes,
        "upload": {"files": len(plan.code.files), "bytes": plan.code.total_bytes, "target": str(plan.upload_target)},
        "setup": None if plan.skip_setup else plan.setup.key,
        "environment": plan.environment(masked(plan.secrets)),
        "train": plan.config.model_dump(mode="json"),
        "files": [{"name": file.name, "mode": f"{file.mode:o}"} for file in plan.files()],
        "commands": [list(command.argv) for command in plan.commands()],
        "starter": ["sbatch", batches.FILE] if plan.slurm else list(plan.start.starter),
        "training": list(plan.start.training),
    }


def _indented(text: str) -> Sequence[str]:
    return [f"  {line}" for line in text.rstrip("\n").split("\n")]
