"""How the processes of a run find each other: what the environment says of them, their devices, Accelerate's group.

A process that was started as one of many and finds itself alone would train N unrelated models into one folder.
That is refused here, loudly.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch

from trainer.config import TrainConfig
from trainer.errors import EngineError
from trainer.loop.precision import Precision, chosen_precision

_GRADIENTS_PATIENCE = timedelta(minutes=15)
"""For a process that is alive and does not come. A step and a compilation take less; what may take longer, one process
doing what the others need, waits on the control group. Not 10 minutes: Accelerate takes that for its default and passes
nothing on, and gloo's own is 30."""


def formed_group(train: TrainConfig, environ: Mapping[str, str]) -> tuple[Any, Precision]:
    """Accelerate's Accelerator, this process in its group, and what it computes in. Raises EngineError."""
    _require_launcher(environ)
    uses_cpu = _uses_cpu(train, environ)
    precision = chosen_precision(train.precision, "cpu" if uses_cpu else "cuda")
    if not uses_cpu:
        _require_gpu_for_every_process(environ)
    return _accelerator(uses_cpu, precision, environ), precision


def _require_launcher(environ: Mapping[str, str]) -> None:
    # A step of srun has its own number; SLURM_PROCID, which counts its tasks, is no RANK.
    tasks = max(_number(environ, "SLURM_NTASKS"), _number(environ, "SLURM_STEP_NUM_TASKS"))
    if tasks > 1 and "RANK" not in environ:
        nodes = _number(environ, "SLURM_NNODES")
        several = f" --nnodes={nodes} --rdzv-backend=c10d --rdzv-endpoint=HOST:29500" if nodes > 1 else ""
        raise _on_every_rank(
            EngineError(
                f"Slurm started {tasks} tasks that know nothing of each other",
                why="each would train a model of its own into the same folder: SLURM_NTASKS is set and RANK is not",
                hint=f"srun --ntasks-per-node=1 torchrun --nproc-per-node=gpu{several} -m trainer pretrain ...; "
                "for one process on purpose: env -u SLURM_NTASKS -u SLURM_STEP_NUM_TASKS python -m trainer ...",
            )
        )


def _number(environ: Mapping[str, str], variable: str) -> int:
    text = environ.get(variable, "")
    return int(text) if text.isdecimal() else 1


def _uses_cpu(train: TrainConfig, environ: Mapping[str, str]) -> bool:
    if train.device == "cuda" and not torch.cuda.is_available():
        raise _on_every_rank(
            EngineError(
                "there is no usable GPU",
                why="`train.device` is `cuda` and torch.cuda.is_available() is false",
                hint="compare `nvidia-smi` with `python -c 'import torch; print(torch.version.cuda)'`",
            )
        )
    forced = environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes", "on", "y", "t")
    return train.device == "cpu" or not torch.cuda.is_available() or (train.device == "auto" and forced)


def _require_gpu_for_every_process(environ: Mapping[str, str]) -> None:
    wanted, found = int(environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if wanted > found:
        raise _on_every_rank(
            EngineError(
                f"{wanted} processes were started here for {found} GPUs",
                why="each process needs a GPU of its own",
                hint=f"torchrun --nproc-per-node={found} ... (and look at CUDA_VISIBLE_DEVICES)",
            )
        )


def _accelerator(uses_cpu: bool, precision: Precision, environ: Mapping[str, str]) -> Any:
    # Late: Accelerate and torch.distributed take seconds, which `--help` and every refusal above should not cost.
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    if uses_cpu and "OMP_NUM_THREADS" not in environ:
        # Accelerate would count physical cores with psutil, which knows none in some containers, and warn.
        threads = max(1, (os.cpu_count() or 1) // int(environ.get("LOCAL_WORLD_SIZE", "1")))
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    # cpu=True is what makes torchrun on a machine without a GPU form a group at all; otherwise every process would
    # quietly be the only one.
    return Accelerator(
        cpu=uses_cpu,
        mixed_precision="no" if precision == "fp32" else precision,
        kwargs_handlers=[
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),  # or each gradient is there twice
            # A backend that is named is taken for a group that exists; a lone process has none.
            *(
                [InitProcessGroupKwargs(backend="gloo" if uses_cpu else "nccl", timeout=_GRADIENTS_PATIENCE)]
                if "LOCAL_RANK" in environ
                else []
            ),
        ],
    )


def require_size(variable: str, says: str, environ: Mapping[str, str], found: int) -> None:
    """Raises EngineError where `environ` promises another number of processes than the group has."""
    expected = int(environ.get(variable) or found)
    if expected != found:
        raise _on_every_rank(
            EngineError(
                f"{expected} processes should train together, and this one finds {found}",
                why=f"{says} {variable}={expected}; `accelerate launch --cpu` starts one process, whatever it is told",
                hint=f"torchrun --standalone --nproc-per-node={expected} -m trainer pretrain",
            )
        )


def _on_every_rank(error: EngineError) -> EngineError:
    error.on_every_rank = True
    return error
