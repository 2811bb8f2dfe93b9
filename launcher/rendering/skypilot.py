"""A job as a SkyPilot task: machines by its own words, the training, checkpoints to a bucket and back. Pure.

Checked against SkyPilot 0.14.1's own parser (tests/launcher/test_rendering_skypilot.py).
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from launcher.errors import JobsError
from launcher.hosts.setup import trainer_requirements
from launcher.rendering.script import train_yaml
from launcher.running.render import template
from launcher.spec.jobs import JobSpec
from trainer.config import RunConfig, dump_yaml

_MOUNT = "/checkpoints"
_COMMENT = """\
# {job} as a SkyPilot task. In the project's folder, which must hold `trainer` (else add gptops[trainer] to `setup`):
#   sky jobs launch task.yaml --env CHECKPOINT_BUCKET=NAME{secrets}
# Whole checkpoints go to the bucket, and a recovered job goes on from the newest. Another RUN begins afresh.
"""


def skypilot_task(job_name: str, job: JobSpec, config: RunConfig) -> str:
    """The task as YAML, with how to launch it in front."""
    secrets = "".join(f" --secret {name}" for name in job.secrets)
    config_line = f"GPTOPS_TRAIN_YAML={shlex.quote(train_yaml(config))}\n"
    return "".join(
        (
            _COMMENT.format(job=job_name, secrets=secrets),
            dump_yaml(_task(job_name, job)),
            _block("setup", _setup(job)),
            _block("run", config_line + template("skypilot.sh")),
        )
    )


def _task(job_name: str, job: JobSpec) -> dict[str, Any]:
    envs = {
        "RUN": job_name,
        "CHECKPOINT_BUCKET": None,  # a bucket's name is the user's own: SkyPilot asks for it
        "GPTOPS_STAGE": job.stage,
        "GPTOPS_PROCESSES": str(job.processes_per_node),
        **({} if job.resources.gpus else {"ACCELERATE_USE_CPU": "true"}),
        **job.env,
    }
    task: dict[str, Any] = {
        "name": re.sub(r"[^a-z0-9-]", "-", job_name.lower()),
        "workdir": ".",
        "num_nodes": job.resources.nodes,
        "resources": _resources(job_name, job),
        "envs": envs,
        "secrets": dict.fromkeys(job.secrets),
        "file_mounts": {_MOUNT: {"name": "${CHECKPOINT_BUCKET}", "mode": "MOUNT"}},
    }
    if not job.secrets:
        del task["secrets"]
    return task


def _resources(job_name: str, job: JobSpec) -> dict[str, Any]:
    asked = job.resources
    found: dict[str, Any] = {"image_id": f"docker:{job.image}"}
    if asked.gpus:
        if not asked.gpu_names:
            raise JobsError(
                f"jobs.{job_name}.resources.gpu_names: is empty",
                why="SkyPilot has no word for any GPU",
                hint="name models, one or several: gpu_names: [H100, A100]",
            )
        found["accelerators"] = [f"{model_word(name)}:{asked.gpus}" for name in asked.gpu_names]
    found |= {"disk_size": max(50, asked.disk_gib), "use_spot": asked.spot}
    if asked.max_price_per_hour is not None:
        found["max_hourly_cost"] = asked.max_price_per_hour
    if job.budget.idle_minutes:
        found["autostop"] = {"idle_minutes": job.budget.idle_minutes, "down": True}
    found["job_recovery"] = {"max_restarts_on_errors": job.max_restarts}
    return found


def model_word(name: str) -> str:
    """`RTX4090` for `RTX 4090`, `A100-80GB` for `A100 80GB`: SkyPilot's words have no blanks."""
    word = re.sub(r"^(NVIDIA|GeForce)\s+", "", name.strip())
    word = re.sub(r"\b(RTX|GTX)\s+", r"\1", word)
    return re.sub(r"\s+", "-", word)


def _block(key: str, text: str) -> str:
    """A text as it stands; escaped where YAML could not show it so."""
    lines = text.splitlines()
    if all(line.isprintable() for line in lines) and "\n".join(lines) + "\n" == text and not text.startswith(" "):
        return f"{key}: |\n" + "".join(f"  {line}".rstrip(" ") + "\n" for line in lines)
    return dump_yaml({key: text})


def _setup(job: JobSpec) -> str:
    packages = shlex.join([*trainer_requirements(), *job.setup.pip])
    return "\n".join([f"python -m pip install --quiet {packages}", *job.setup.shell]) + "\n"
