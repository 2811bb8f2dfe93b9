"""What is typed to start the training processes of a run, as data. Pure.

A starter is what stands before `sh ./run.sh worker`, once for all processes of a
machine. It is called as a module of the environment's own python: a `torchrun`
found on the PATH may belong to the image, and would start the image's python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from launcher.errors import HostUnfit
from launcher.spec.jobs import JobSpec

CONFIG = "../train.yaml"
"""The training's configuration, seen from the code, where the training runs."""


@dataclass(frozen=True)
class Start:
    """How the training of one job is started on one machine."""

    processes: int
    starter: tuple[str, ...]
    training: tuple[str, ...]
    """What each process runs, in `code/`."""
    environment: dict[str, str]
    """What both need in their environment."""


def start_of(job: JobSpec, *, host_gpus: int) -> Start:
    """How `job` is started on a machine with `host_gpus` GPUs: one process a GPU, or one on a CPU, unless it says."""
    on_gpus = job.resources.gpus > 0
    if on_gpus and host_gpus < job.resources.gpus:
        raise HostUnfit(
            f"the job wants {job.resources.gpus} GPUs and the host has {host_gpus}",
            why="training on fewer would take longer than was asked for, or not fit",
            hint=f"gptops up --gpus {job.resources.gpus}",
        )
    processes = job.processes or (host_gpus if on_gpus else 1)
    environment = {"GPTOPS_EXPECTED_PROCESSES": str(processes * job.resources.nodes)}
    if not on_gpus:
        # Without it, Accelerate takes N processes of torchrun on a machine without a GPU for N separate trainings.
        environment["ACCELERATE_USE_CPU"] = "true"
    alone = job.resources.nodes == 1
    starter = _accelerate(processes, on_gpus) if job.launcher == "accelerate" else _torchrun(processes, alone=alone)
    return Start(processes, starter, training(job.stage), environment)


def training(stage: str) -> tuple[str, ...]:
    """The training program of a stage."""
    return ("python", "-m", "trainer", stage, "--config", CONFIG)


def _torchrun(processes: int, *, alone: bool) -> tuple[str, ...]:
    """With several nodes run.sh adds where they meet, which is known when they have met."""
    flags = (*(("--standalone",) if alone else ()), f"--nproc_per_node={processes}", "--no-python")
    return ("python", "-m", "torch.distributed.run", *flags)


def _accelerate(processes: int, on_gpus: bool) -> tuple[str, ...]:
    """Every setting is said: what is not would come from a configuration file of the machine."""
    device: tuple[Literal["--cpu", "--multi_gpu"], ...] = ()
    if not on_gpus:
        assert processes == 1, "accelerate starts one process on a CPU, whatever it is told"
        device = ("--cpu",)
    elif processes > 1:
        device = ("--multi_gpu",)
    sizes = ("--num_machines=1", f"--num_processes={processes}", "--main_process_port=0")
    rest = ("--mixed_precision=no", "--dynamo_backend=no", "--no_python")
    return ("python", "-m", "accelerate.commands.launch", *device, *sizes, *rest)
