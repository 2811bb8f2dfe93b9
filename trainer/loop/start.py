"""From a configuration to a finished training: find the processes, claim the folder, open the stage, train."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from trainer import manifest
from trainer.checkpoints.checkpoint import folder_of
from trainer.checkpoints.out_dir import claimed
from trainer.config import RunConfig
from trainer.console import Console
from trainer.errors import EngineError, TrainerError
from trainer.loop.alike import require_alike
from trainer.loop.allocator import keep_freed_memory
from trainer.loop.distributed import World, opened_world
from trainer.loop.engine import Outcome, train
from trainer.loop.signals import StopRequested, stop_request
from trainer.models.hf_folder import resolved
from trainer.models.hf_policy import require_unsloth
from trainer.models.init_from import require_initial
from trainer.models.quantized import require_quantizer
from trainer.sizing import grad_accum_steps, num_parameters
from trainer.stages import open_stage
from trainer.trackers import require_trackers

LOG_NAME = "console.log"
"""Of a run that nobody else keeps the log of. Not `train.log`: that is what the launcher brings home."""


def run_stage(name: str, config: RunConfig) -> Outcome:
    """Train the stage called `name`. Every process of the run calls this. Raises TrainerError."""
    with stop_request(), opened_world(config.train) as world:
        console = Console(world.is_first)
        if world.device.type == "cpu":
            keep_freed_memory()
        require_alike(config, world)
        try:
            with claimed(Path(config.out_dir), world):
                return _train(name, config, world, console)
        except StopRequested as request:
            return _stopped(config, request)


def _train(name: str, config: RunConfig, world: World, console: Console) -> Outcome:
    try:
        known = world.first_then_all(lambda: resolved(config))
        world.on_first(lambda: _begin(name, known, world, console))
        stage = open_stage(name, known, world, console)
        if known.train.parallel == "fsdp" and stage.samples_from_policy and world.num_processes > 1:
            raise cannot_sample(name)
        return train(known, stage, world, console)
    except TrainerError as error:
        console.note(str(error))
        raise


def _begin(name: str, config: RunConfig, world: World, console: Console) -> None:
    """What must be known before anything takes long."""
    if keeps_log(config, os.environ):
        console.keep_log(Path(config.out_dir) / LOG_NAME)
    console.say(_headline(name, config, world))
    require_trackers(config.log.trackers)
    if config.model.init_from and (config.lora.rank or not manifest.checkpoints(folder_of(Path(config.out_dir)))):
        require_initial(config.model, config.data.tokenizer)
    require_quantizer(config.lora)
    if config.model.backend == "unsloth":
        require_unsloth()


def keeps_log(config: RunConfig, environ: Mapping[str, str]) -> bool:
    """Whether the run should keep a log of its own: run.sh keeps one of everything that is said."""
    return config.log.file and "GPTOPS_RUN_ID" not in environ


def cannot_sample(name: str) -> EngineError:
    error = EngineError(
        f"`train.parallel=fsdp` does not work for {name}",
        why="it samples from the policy, of which each process would hold a part only",
        hint="train.parallel=ddp",
    )
    error.on_every_rank = True
    return error


def _stopped(config: RunConfig, request: StopRequested) -> Outcome:
    """Nothing was trained in this start; what an earlier one saved is still there."""
    published = manifest.checkpoints(folder_of(Path(config.out_dir)))
    newest = published[-1] if published else None
    step = (manifest.step_of(newest.name) or 0) if newest else 0
    return Outcome(step, newest, None, request.reason)


def _headline(name: str, config: RunConfig, world: World) -> str:
    """`pretrain: 124,439,808 parameters, bf16 on 8 x NVIDIA H100, 480 sequences a step = 8 x 15 x 4`"""
    batch = config.train
    steps = grad_accum_steps(batch.global_batch_size, batch.micro_batch_size, world.num_processes)
    gpu = world.device.type == "cuda"
    device = torch.cuda.get_device_name(world.device) if gpu else f"CPU ({torch.get_num_threads()} threads)"
    return (
        f"{name}: {num_parameters(config.model):,} parameters, {world.precision} on {world.num_processes} x {device}, "
        f"{batch.global_batch_size} sequences a step = {world.num_processes} x {steps} x {batch.micro_batch_size}"
    )
