"""What two processes do together, each thing once: started by torchrun, judged by the tests.

python -m torch.distributed.run --standalone --nproc-per-node=2 -m tests.trainer.two_ranks FOLDER
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainer import sharded_muon
from tests.trainer.ragged import RaggedBatch, RaggedStage
from tests.trainer.tiny import tiny_config
from trainer import manifest
from trainer.checkpoints.disk import Disk
from trainer.checkpoints.snapshot import Camera
from trainer.config import RunConfig
from trainer.console import Console
from trainer.errors import CheckpointError, EngineError
from trainer.loop.alike import require_alike
from trainer.loop.distributed import World, opened_world
from trainer.loop.engine import train
from trainer.loop.optim import make_optimizer
from trainer.loop.sharing import share_newest
from trainer.loop.signals import StopRequest
from trainer.loop.step import Gradients, Stepper
from trainer.loop.validation import Validation
from trainer.loop.wrapping import wrapped
from trainer.models.model import GPT
from trainer.stages import LossOutput

STEPS = 3
RUN = ("train.micro_batch_size=1", "schedule.kind=constant", "checkpoint.every_steps=4", "eval.every_steps=4")


class SharedStage(RaggedStage):
    """The ragged sequences, shared out: in each round rank r gets the r-th micro-batch. Rank 1 validates nothing."""

    def __init__(self, rank: int, num_ranks: int, *, poisoned_step: int = 0) -> None:
        super().__init__(1)
        self._rank, self._num_ranks, self._poisoned_step = rank, num_ranks, poisoned_step
        self._losses = 0

    def batches(self, policy: nn.Module) -> Iterator[RaggedBatch]:
        while True:
            first = (self._next + self._rank) % 8
            self._next += self._num_ranks
            yield self._batch(first, first + 1)

    def validation_batches(self) -> Iterator[RaggedBatch]:
        yield self._batch(0, 8 if self._rank == 0 else 0)

    def loss(self, policy: nn.Module, batch: RaggedBatch) -> LossOutput:
        output = super().loss(policy, batch)
        self._losses += torch.is_grad_enabled()
        step = -(-self._losses // (8 // self._num_ranks))
        if self._poisoned_step == step > 0 and self._rank == 1:
            return LossOutput(output.loss_sum * float("nan"), output.metrics)
        return output


class Training:
    """A policy with what takes steps with it."""

    def __init__(self, config: RunConfig, world: World, stage: SharedStage) -> None:
        torch.manual_seed(0)
        self.stage, self.world = stage, world
        self.model = GPT(config.model)
        self.policy = wrapped(self.model, world, config.train)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.stepper = Stepper(self.policy, self.optimizer, stage, world, 1.0)
        self.batches = stage.batches(self.policy)

    def step(self, accumulation: int = 4) -> Gradients:
        gradients = self.stepper.accumulate([next(self.batches) for _ in range(accumulation)])
        if gradients.is_finite:
            self.stepper.apply(1e-3)
        else:
            self.stepper.skip()
        return gradients

    def weights(self) -> dict[str, torch.Tensor]:
        snapshot = Camera().snapshot(self.model, self.optimizer)
        assert snapshot is not None
        return snapshot.weights


class ReduceScatters(TorchDispatchMode):
    """Counts them, whoever calls for one."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "reduce_scatter" in str(func)
        return func(*args, **(kwargs or {}))


def learnt(config: RunConfig, world: World) -> dict[str, torch.Tensor]:
    training = Training(config, world, SharedStage(world.rank, world.num_processes))
    for _ in range(STEPS):
        training.step()
    return training.weights()


def reductions(config: RunConfig, world: World, accumulation: int) -> int:
    """How often gradients travel in one step of so many micro-batches."""
    training = Training(config, world, SharedStage(world.rank, world.num_processes))
    count = [0]

    def counted(_, bucket):  # type: ignore[no-untyped-def]  # DDP wants these annotations evaluated, or none
        count[0] += 1
        return allreduce_hook(dist.group.WORLD, bucket)

    if config.train.parallel == "ddp":
        ddp: Any = training.policy
        ddp.register_comm_hook(None, counted)
        training.step(accumulation)
        return count[0]
    training.step(accumulation)  # its first forward sets up what it needs
    with ReduceScatters() as seen:
        training.step(accumulation)
    return seen.count


def main(folder: Path) -> None:
    ddp = tiny_config(folder, "model.dropout=0")
    fsdp = tiny_config(folder, "model.dropout=0", "train.parallel=fsdp", "train.activation_checkpointing=true")
    found: dict[str, Any] = {}
    with opened_world(ddp.train) as world, StopRequest(deaf_afterwards=False) as stop:
        for name, config in (("ddp", ddp), ("fsdp", fsdp)):
            found[name] = {
                "reductions": [reductions(config, world, accumulation) for accumulation in (1, 4)],
                "val_loss": validated(config, world, stop),
                "finite": list(poisoned(config, world)),
            }
            weights = learnt(config, world)
            if world.is_first:
                save_file(weights, folder / f"{name}.safetensors")
        for steps in ((8,), (4, 8)):  # straight, and in two pieces
            for max_steps in steps:
                out_dir = folder / "x".join(map(str, steps))
                out_dir.mkdir(exist_ok=True)
                sharded = ("train.parallel=fsdp", "sample.every_steps=4", "sample.max_tokens=3")
                run = tiny_config(out_dir, *RUN, *sharded, f"train.max_steps={max_steps}")
                train(run, SharedStage(world.rank, world.num_processes), world, Console(world.is_first))
        changing_form(folder, world)
        found["full"] = full_disk(folder / "full", world)
        found["shared"] = shared(folder, world)
        found["alike"] = [alike(folder, world, *own) for own in (["", ""], ["", "seed=1"], ["", "out_dir=/elsewhere"])]
        found["muon"] = sharded_muon.difference(world)
        muon_in_pieces(folder, world)
        everything = world.gather(found)
        if world.is_first:
            (folder / "found.json").write_text(json.dumps(everything))


def changing_form(folder: Path, world: World) -> None:
    """Runs of eight steps, saved by rank 0 alone in one half and by all ranks in the other."""
    for name, forms in (("whole_first", ("false", "true")), ("pieces_first", ("true", "false"))):
        (folder / name).mkdir(exist_ok=True)
        for max_steps, form in zip((4, 8), forms, strict=True):
            keys = ("train.parallel=fsdp", "sample.every_steps=4", "sample.max_tokens=3", f"checkpoint.sharded={form}")
            run = tiny_config(folder / name, *RUN, *keys, f"train.max_steps={max_steps}")
            train(run, SharedStage(world.rank, world.num_processes), world, Console(world.is_first))


def full_disk(out_dir: Path, world: World) -> str:
    """What this rank is told when rank 1 may not write files of the size that a checkpoint has."""
    out_dir.mkdir(exist_ok=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if world.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        run = tiny_config(out_dir, *RUN, "train.parallel=fsdp", "train.max_steps=5")
        train(run, SharedStage(world.rank, world.num_processes), world, Console(world.is_first))
    except CheckpointError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return "it was saved"


def alike(folder: Path, world: World, *overrides: str) -> str:
    """What this rank is told where each rank has its own of these."""
    own = overrides[world.rank]
    try:
        require_alike(tiny_config(folder, *([own] if own else [])), world)
    except EngineError as error:
        return str(error)
    return ""


def shared(folder: Path, world: World) -> list[list[str]]:
    """What each rank has after it was given the newest checkpoint, on disks of their own: rank 0 alone had three, of
    which the newest is damaged; then rank 1 lacks its own."""
    disk, world.disk = world.disk, Disk(world.rank, world.num_processes, is_first=True)
    own = folder / f"disk{world.rank}"
    if world.is_first:
        shutil.copytree(folder / "4x8" / "checkpoints", own)
        shutil.copytree(folder / "whole_first" / "checkpoints" / "step_00000004", own / "step_00000006")
        (own / "step_00000006" / "MANIFEST.json").write_text("{")
        (own / "step_00000008" / "model" / "rank_00000.safetensors").write_bytes(b"")
    found = []
    for _ in range(2):
        share_newest(own, world, Console(False))
        found.append([path.name for path in manifest.checkpoints(own) if _is_sound(path)])
        if world.rank == 1:
            manifest.remove(own / "step_00000004")
    world.disk = disk
    return found


def _is_sound(checkpoint: Path) -> bool:
    try:
        return manifest.verify(checkpoint).is_whole
    except manifest.BrokenCheckpoint:
        return False


def muon_in_pieces(folder: Path, world: World) -> None:
    """Runs of eight steps with Muon and its weights spread: `muon` straight, `muon_pieces` stopped after four."""
    for name, pieces in (("muon", (8,)), ("muon_pieces", (4, 8))):
        (folder / name).mkdir(exist_ok=True)
        for max_steps in pieces:
            keys = ("optim.kind=muon", "train.parallel=fsdp", "schedule.warmup_steps=1", f"train.max_steps={max_steps}")
            run = tiny_config(folder / name, *RUN, *keys)
            train(run, SharedStage(world.rank, world.num_processes), world, Console(world.is_first))


def validated(config: RunConfig, world: World, stop: StopRequest) -> float | None:
    """The validation loss, to which rank 1 adds nothing; a step afterwards must still be possible."""
    training = Training(config, world, SharedStage(world.rank, world.num_processes))
    validation = Validation(training.stage, training.policy, world, 0)
    assert not validation.measure(stop)
    training.step()
    return validation.loss


def poisoned(config: RunConfig, world: World) -> Iterator[list[bool]]:
    """Of three steps, whether each is finite, and whether it changed the weights; rank 1 alone has the NaN."""
    training = Training(config, world, SharedStage(world.rank, world.num_processes, poisoned_step=2))
    for _ in range(3):
        before = training.weights()
        finite = training.step().is_finite
        after = training.weights()
        yield [finite, any(not torch.equal(before[name], after[name]) for name in before)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
