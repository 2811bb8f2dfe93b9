"""job.sbatch as text: templates/job.sbatch with the lines that Slurm reads, and what it is fed with. Pure.

sbatch has no environment to read its own options from, so they are put in, and
beside them the settings of the run, each value quoted here, once.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launcher.errors import JobsError
from launcher.running.render import template
from launcher.running.starters import training
from launcher.spec.jobs import JobSpec
from launcher.spec.slurm import SlurmSpec
from trainer.config import RunConfig, dump_yaml

FILE = "job.sbatch"
SCRIPT = "slurm.sh"
"""What stands in for run.sh's own start, look and end, beside it (templates/slurm.sh)."""


@dataclass(frozen=True)
class Batch:
    """What both kinds of batch file are made of."""

    job: JobSpec
    slurm: SlurmSpec

    def of_run(self, run_id: str) -> str:
        """The batch file that lies in a run's folder; everything else is read from run.env there."""
        settings = ["GPTOPS_FOLDER=.", "GPTOPS_CODE=code", "GPTOPS_LOG=logs/train.log", "GPTOPS_TRAIN_YAML="]
        return self._text(run_id, "logs/starter.log", [*settings, *self._host_lines()])

    def by_hand(self, job_name: str, config: RunConfig) -> str:
        """The batch file alone, submitted in a project's folder; each submission makes `runs/NAME-ID`."""
        command = f'{shlex.join(training(self.job.stage)[:-1])} "$GPTOPS_FOLDER/train.yaml" "out_dir=$GPTOPS_FOLDER"'
        settings = [
            f"GPTOPS_FOLDER=${{GPTOPS_FOLDER:-runs/{job_name}-$SLURM_JOB_ID}} # set it to go on in an earlier one",
            "GPTOPS_CODE=.",
            "GPTOPS_LOG=",
            f"export GPTOPS_EXPECTED_PROCESSES={self.job.processes_per_node * self.job.resources.nodes}",
            f"GPTOPS_COMMAND={shlex.quote(command)}",
            f"GPTOPS_TRAIN_YAML={shlex.quote(dump_yaml(config.model_dump(mode='json', exclude_defaults=True)))}",
            *(f"export {name}={shlex.quote(value)}" for name, value in self.environment().items()),
            *(f': "${{{name}:?set it in the shell that submits}}"' for name in self.job.secrets),
        ]
        return self._text(job_name, "slurm-%j.out", [*settings, *self._host_lines()])

    def environment(self) -> Mapping[str, str]:
        """What the training needs in its environment, besides secrets."""
        # Without it, Accelerate takes N processes of torchrun on a machine without a GPU for N separate trainings.
        on_cpu = {} if self.job.resources.gpus else {"ACCELERATE_USE_CPU": "true"}
        return {**on_cpu, **self.job.env}

    def _text(self, name: str, output: str, settings: Sequence[str]) -> str:
        directives = "\n".join(f"#SBATCH {line}" for line in self._directives(name, output))
        text = template(FILE).replace("@directives@", directives, 1)
        before, mark, after = text.partition("@settings@")
        assert mark, "templates/job.sbatch has no place for its settings"
        return before + "\n".join(settings) + after

    def _directives(self, name: str, output: str) -> list[str]:
        asked, slurm = self.job.resources, self.slurm
        kind = f"gpu:{slurm.gpu_type}" if slurm.gpu_type else "gpu"
        lines = [f"--job-name={name}", f"--nodes={asked.nodes}", "--ntasks-per-node=1"]
        lines += [f"--gres={kind}:{asked.gpus}"] if asked.gpus else []
        given = (("partition", slurm.partition), ("account", slurm.account), ("qos", slurm.qos), ("time", slurm.time))
        lines += [f"--{option}={value}" for option, value in given if value is not None]
        lines += [f"--signal=B:USR1@{slurm.signal_seconds}", "--requeue", "--open-mode=append", f"--output={output}"]
        return [*lines, *slurm.extra]

    def _host_lines(self) -> list[str]:
        return ["host_lines() {", "    :", *(f"    {line}" for line in self.slurm.shell), "}"]


def require_startable(job: JobSpec, job_name: str) -> None:
    """Raises JobsError where the job asks for what does not go with Slurm."""
    if job.launcher != "torchrun":
        raise JobsError(
            f"jobs.{job_name}.launcher: `{job.launcher}` does not go with Slurm",
            why="one torchrun on each node is what knows of the others",
            hint="leave `launcher` out of the job, or `launcher: torchrun`",
        )
