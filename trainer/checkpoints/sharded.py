"""Tensors that are spread over processes, on disk: each process writes what it holds, any number of processes read.

    model/rank_00000.safetensors  model/rank_00001.safetensors ...     optimizer/rank_00000.safetensors ...

Who writes what is planned by torch.distributed.checkpoint, which also reads: a tensor is put together, or cut anew,
from whichever files have a piece of it. The files are safetensors with the place of each piece in their header, the
form that its HuggingFaceStorageReader knows; its own form has a pickle in it. Planning needs all processes, writing and
reading need none of the others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.checkpoints.snapshot import Camera, Tensors, num_bytes, optimizer_tensors
from trainer.errors import CheckpointError
from trainer.quoting import shown

MODEL = "model"
OPTIMIZER = "optimizer"
_PLACES = "DCP_SHARDING_INFO"
"""The key of the header under which torch's reader looks for the places of the pieces."""

Offsets = dict[str, list[int]]
Gather = Callable[[Any], list[Any]]
"""The value of every process, in order of rank."""


@dataclass(frozen=True)
class Pieces:
    """What one process writes of one folder, in host memory: at most one piece of each tensor."""

    tensors: Tensors
    offsets: Offsets
    """Where each piece begins in the whole tensor."""

    @property
    def num_bytes(self) -> int:
        return num_bytes(self.tensors)


@dataclass(frozen=True)
class Shard:
    """What one process writes of a checkpoint."""

    rank: int
    weights: Pieces
    moments: Pieces

    @property
    def num_bytes(self) -> int:
        return self.weights.num_bytes + self.moments.num_bytes


class Division:
    """Who of the processes writes which piece. It is found out once for the same tensors, and kept."""

    def __init__(self, rank: int, gather: Gather) -> None:
        # Late, it takes more than a second; and here, so that the first save does not have to wait for it.
        from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

        self._planner = DefaultSavePlanner
        self._rank, self._gather = rank, gather
        self._camera = Camera()
        self._items: dict[tuple[str, ...], list[Any]] = {}

    def shard(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Shard:
        """A copy of what this process is to write of them as they are now. Every process calls this; the shard before
        must have been written by then."""
        weights = self._copied("weights", self.pieces(model.state_dict()))
        moments = self._copied("moments", self.pieces(optimizer_tensors(model, optimizer)))
        self._camera.wait()
        return Shard(self._rank, weights, moments)

    def pieces(self, tensors: Mapping[str, Tensor]) -> Pieces:
        """This process's pieces, not copied: what others hold as well is written by one of them."""
        planner = self._planner(flatten_state_dict=False)
        planner.set_up_planner(dict(tensors), is_coordinator=self._rank == 0)
        names = tuple(tensors)
        if names not in self._items:
            # All make the same whole plan out of the same parts, so none has to be sent back.
            plans, _ = planner.create_global_plan(self._gather(planner.create_local_plan()))
            self._items[names] = list(plans[self._rank].items)
        items = self._items[names]
        return Pieces(
            {item.index.fqn: _tensor(planner.resolve_data(item)) for item in items},
            {item.index.fqn: list(item.tensor_data.chunk.offsets) for item in items},
        )

    def _copied(self, kind: str, pieces: Pieces) -> Pieces:
        copies = {name: self._camera.copy(f"{kind}/{name}", tensor) for name, tensor in pieces.tensors.items()}
        return Pieces(copies, pieces.offsets)


def write_pieces(folder: Path, rank: int, pieces: Pieces) -> Path:
    """Write this process's file of a folder, which must exist, and return its path."""
    path = folder / f"rank_{rank:05d}.safetensors"
    places = {name: {"saved_offsets": offsets} for name, offsets in pieces.offsets.items()}
    save_file(pieces.tensors, path, metadata={_PLACES: json.dumps(places), "format": "pt"})
    return path


def is_sharded(checkpoint: Path) -> bool:
    """Whether a checkpoint has its tensors in pieces."""
    return (checkpoint / MODEL).is_dir()


def known_tensors(folder: Path) -> Tensors:
    """Every tensor there, put together, by shape and type alone. Raises CheckpointError where pieces are missing."""
    found = {}
    for name, of in _reader(folder).read_metadata().state_dict_metadata.items():
        if sum(math.prod(chunk.sizes) for chunk in of.chunks) != math.prod(of.size):
            raise CheckpointError(f"{shown(folder)} is not whole", why=f"pieces of `{name}` are missing")
        found[name] = torch.empty(tuple(of.size), dtype=of.properties.dtype, device="meta")
    return found


def read_whole(folder: Path) -> Tensors:
    """Every tensor there, put together. Raises CheckpointError."""
    tensors = {name: torch.empty_like(known, device="cpu") for name, known in known_tensors(folder).items()}
    read_into(folder, tensors)
    return tensors


def read_into(folder: Path, tensors: Mapping[str, Tensor], *, all_of_it: bool = False) -> None:
    """Fill `tensors` in place; of one that is spread over processes only what this one holds is read. Needs no other
    process. Raises CheckpointError where the folder lacks one, has it in another shape, or, with `all_of_it`, more."""
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

    _require_fit(folder, tensors, all_of_it)
    reader = _reader(folder)
    metadata = reader.read_metadata()
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    planner = DefaultLoadPlanner(flatten_state_dict=False)
    planner.set_up_planner(dict(tensors), metadata, is_coordinator=True)
    reader.read_data(planner.finish_plan(planner.create_local_plan()), planner).wait()


def _require_fit(folder: Path, tensors: Mapping[str, Tensor], all_of_it: bool) -> None:
    has = {name: tuple(known.shape) for name, known in known_tensors(folder).items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in [*wanted, *(name for name in has if all_of_it)]:
        if has.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{shown(folder)} does not fit the model",
                why=f"`{name}` is {has.get(name, 'missing')} there, {wanted.get(name, 'missing')} here",
            )


def _reader(folder: Path) -> Any:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    return HuggingFaceStorageReader(str(folder))


def _tensor(data: Any) -> Tensor:
    assert isinstance(data, Tensor), type(data)
    return data
