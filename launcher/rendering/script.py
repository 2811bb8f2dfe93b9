"""What every plain script has: where the run lies, its configuration, its environment. Pure.

Each value is quoted here, once. The script runs in the project's folder, with an
environment in which `python -m trainer` works.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from launcher.spec.jobs import JobSpec
from trainer.config import RunConfig, dump_yaml

DISKS = """\
With runs/ on a disk they share, a checkpoint is one folder there. Without one, node 0 has it, or with
train.parallel=fsdp each node a part of it: the same script goes on from them, and this makes one of them elsewhere:
  python trainer/manifest.py merge CHECKPOINT PART PART...
"""
"""Where checkpoints are when several machines train. The trainer finds out which disks there are."""


def script(job_name: str, job: JobSpec, config: RunConfig, comment: str, files: Mapping[str, str], start: str) -> str:
    """A script that writes `files` into the run's folder and becomes `start`, which finds that folder in `$run`."""
    texts = {"train.yaml": train_yaml(config), **files}
    lines = [
        "#!/bin/sh",
        *(f"# {line}".rstrip() for line in comment.strip().split("\n")),
        "set -eu",
        f"run=runs/{job_name}",
        'mkdir -p "$run"',
        *(f'printf %s {shlex.quote(text)} >"$run/{name}"' for name, text in texts.items()),
        *exports(job),
        f"exec {start}",
    ]
    return "\n".join(lines) + "\n"


def train_yaml(config: RunConfig) -> str:
    """What differs from the trainer's defaults."""
    return dump_yaml(config.model_dump(mode="json", exclude_defaults=True))


def exports(job: JobSpec) -> Sequence[str]:
    """The job's environment; its secrets must be there already."""
    # Without the first, Accelerate takes N processes of torchrun on a machine without a GPU for N separate trainings.
    values = {**({} if job.resources.gpus else {"ACCELERATE_USE_CPU": "true"}), **job.env}
    return [
        *(f"export {name}={shlex.quote(value)}" for name, value in values.items()),
        *(f': "${{{name}:?set it in the environment}}"' for name in job.secrets),
    ]


def trainer(job: JobSpec) -> str:
    """What follows the starter's own options."""
    return f'-m trainer {job.stage} --config "$run/train.yaml" "out_dir=$run"'
