"""From a model to the policy that a loss may call: recomputing, compiled, its gradients reduced over the ranks.

DDP comes from Accelerate. FSDP2 is torch's own `fully_shard`: Accelerate 1.15 shards on GPUs only, so that nothing of
it could be proven on a CPU, where it would quietly train without; and it replaces the optimizer's parameters behind
its back, while here the optimizer is made after them. What is computed is the same as with DDP: weights are gathered
in fp32 and cast by autocast, so that a checkpoint, and each step up to rounding, does not show which of the two it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trainer.checkpoints.snapshot import whole
from trainer.config import TrainConfig
from trainer.errors import EngineError
from trainer.loop.distributed import World


def wrapped(model: nn.Module, world: World, train: TrainConfig) -> nn.Module:
    """`model` as the loss must call it. It stays the same object inside; with FSDP each rank keeps a part of it, so
    an optimizer must be made afterwards. Raises EngineError."""
    if train.activation_checkpointing:
        for block in blocks_of(model):
            _recompute(block, compiled=train.compile)
    if train.parallel == "fsdp" and world.num_processes > 1:
        return _sharded(model, world, compiled=train.compile)
    policy: nn.Module = world.accelerator.prepare_model(torch.compile(model) if train.compile else model)
    return policy


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The layers that a model repeats: its longest list of modules."""
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


def is_sharded(policy: nn.Module) -> bool:
    """Whether each rank holds only a part of it, so that every forward needs all ranks."""
    return hasattr(policy, "set_requires_gradient_sync")


def rest(policy: nn.Module) -> None:
    """Let go of what a forward without a backward had gathered."""
    if is_sharded(policy):
        for module in policy.modules():
            if is_sharded(module):
                module.reshard()  # type: ignore[operator]


@contextmanager
def no_reduction(policy: nn.Module, world: World) -> Iterator[None]:
    """Backwards in here only add to this rank's gradients."""
    if is_sharded(policy):
        sharded: Any = policy
        sharded.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            sharded.set_requires_gradient_sync(True)
    elif world.num_processes > 1:
        with world.accelerator.no_sync(policy):
            yield
    else:
        yield


def whole_model(model: nn.Module, make: Callable[[], nn.Module], world: World) -> nn.Module | None:
    """The bare model for use outside the loss, on rank 0; where each rank holds a part, a copy put together for this.

    None on the other ranks. Every rank calls this. `make` gives one of the same kind; what it draws is taken back.
    """
    if not is_sharded(model):
        return model if world.is_first else None
    weights = {name: whole(tensor) for name, tensor in model.state_dict().items()}
    if not world.is_first:
        return None
    with torch.random.fork_rng(devices=[]):
        copy = make().to(world.device)
    copy.load_state_dict(weights)
    return copy


def _recompute(block: nn.Module, *, compiled: bool) -> None:
    """Keep only the block's input for the backward. Its name and its parameters' names stay as they are."""
    plain: Callable[..., Any] = block.forward

    def uncached(*args: Any, **kwargs: Any) -> Any:
        # Autocast would keep its half-precision copy of every matrix until the end of the forward, for nothing.
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            return plain(*args, **kwargs)
        finally:
            torch.set_autocast_cache_enabled(cached)

    computed = plain if compiled else uncached  # a compiler makes its own copies, and cannot trace the switch

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*args, **kwargs)
        return checkpoint(computed, *args, use_reentrant=False, **kwargs)

    block.forward = forward


def _sharded(model: nn.Module, world: World, *, compiled: bool) -> nn.Module:
    if world.precision == "fp16":
        error = EngineError(
            "`train.parallel=fsdp` does not train in fp16",
            why="a loss scaler would look for overflows in one rank's part of the gradients alone",
            hint="train.parallel=ddp, or train.precision=bf16 where the hardware has it",
        )
        error.on_every_rank = True
        raise error
    # Late: only those who shard pay for these imports.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.num_processes,))
    for block in blocks_of(model):
        if compiled:
            block.compile()
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    plain: Callable[..., Any] = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with world.autocast():
            return plain(*args, **kwargs)

    model.forward = forward
    return model
