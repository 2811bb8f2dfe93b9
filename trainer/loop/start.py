"""From a configuration to a finished training: find the processes, claim the folder, open the stage, train."""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.checkpoints.out_dir import claimed
from trainer.config import RunConfig
from trainer.console import Console
from trainer.loop.distributed import World, opened_world
from trainer.loop.engine import Outcome, train
from trainer.sizing import grad_accum_steps, num_parameters
from trainer.stages import open_stage


def run_stage(name: str, config: RunConfig) -> Outcome:
    """Train the stage called `name`. Every process of the run calls this. Raises TrainerError."""
    with opened_world(config.train) as world:
        console = Console(world.is_first)
        console.say(_headline(name, config, world))
        with claimed(Path(config.out_dir), world):
            return train(config, open_stage(name, config, world, console), world, console)


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
