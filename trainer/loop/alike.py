"""Processes that train together must be told the same and be the same program: found out before anything takes long.

With other settings or another version somewhere they would wait for each other for ever, or, worse, not.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import trainer
from trainer.config import RunConfig
from trainer.errors import EngineError
from trainer.loop.distributed import World
from trainer.loop.resume import flat

_OWN = ("out_dir", "data.path", "data.tokenizer.path", "model.init_from")
"""Where things lie may differ from node to node."""


def require_alike(config: RunConfig, world: World) -> None:
    """Refuse processes that differ in what they are told or are. Every rank calls this. Raises EngineError."""
    everybody = world.gather((world.node, _traits(config, world)))
    first = everybody[0][1]
    for rank, (node, traits) in enumerate(everybody):
        names = [name for name in {**first, **traits} if first.get(name) != traits.get(name)]
        if names:
            error = EngineError(
                f"process {rank}, on node {node}, would not train what process 0 does",
                why="; ".join(f"{name} is {traits.get(name)} there, {first.get(name)} here" for name in names[:5]),
                hint="give every node the same configuration, code and packages",
            )
            error.on_every_rank = True
            raise error


def _traits(config: RunConfig, world: World) -> Mapping[str, Any]:
    """What must be the same, by what a user would call it."""
    settings = flat(config.model_dump(mode="json"))
    return {
        "torch": str(torch.__version__),
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "the trainer's code": code_sha256()[:12],
        "the device": world.device.type,
        "the precision": world.precision,
        **{f"`{name}`": value for name, value in settings.items() if name not in _OWN},
    }


def code_sha256() -> str:
    """Tells one version of the trainer from another: a hash over every file of its source."""
    root, digest = Path(trainer.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
