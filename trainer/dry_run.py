"""Prove an installation before it costs anything: the plan of a run, then a tiny one from end to end.

The tiny run pretrains on the text that ships with the trainer, whatever the stage: rows and rewards are the user's own,
and the loop is the same. It saves, resumes, and lets the result write; all in a temporary folder that is gone
afterwards. It uses this machine's device, precision and processes, so what works here works there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from trainer.checkpoints.out_dir import claimed
from trainer.config import RunConfig, run_config
from trainer.console import Console
from trainer.errors import EngineError
from trainer.loop.distributed import World, opened_world
from trainer.loop.engine import Outcome, train
from trainer.models.generate import generate
from trainer.models.policies import open_policy
from trainer.plan import plan_text
from trainer.sizing import training_plan
from trainer.stages import open_stage

_FIRST, _THEN = 10, 20
_PROVEN = "pretrain"


def dry_run(stage: str, config: RunConfig | None) -> None:
    """Print the plan of `config` (of the tiny run where there is none) and do the tiny run. Raises TrainerError."""
    settings = config or RunConfig()
    with opened_world(settings.train) as world, _temporary_folder(world) as folder:
        console = Console(world.is_first)
        console.say("the plan of this configuration" if config else "the plan of a run without a configuration")
        console.say(plan_text(training_plan(settings, num_gpus=world.num_processes)))
        if stage != _PROVEN:
            console.say(f"\nwhat `{stage}` reads is looked at when it starts; the machine is proven by `{_PROVEN}`")
        _prove(_tiny_config(folder, settings, world), world, console)


@contextmanager
def _temporary_folder(world: World) -> Iterator[Path]:
    folder = world.on_first(lambda: Path(tempfile.mkdtemp(prefix="gptops-dry-run-")))
    try:
        yield folder
    finally:
        if world.is_first:
            shutil.rmtree(folder, ignore_errors=True)


def _prove(tiny: RunConfig, world: World, console: Console) -> None:
    console.say("\na tiny model, from end to end")
    _train(tiny, _FIRST, world, console)
    last = _train(tiny.model_copy(update={"resume": "must"}), _THEN, world, console)
    if world.is_first and last.checkpoint:
        console.say(f"sample: {_sample(last.checkpoint, world.device)!r}")
    console.say("\nthis installation trains, saves, resumes and writes")


def _train(tiny: RunConfig, max_steps: int, world: World, console: Console) -> Outcome:
    config = tiny.model_copy(update={"train": tiny.train.model_copy(update={"max_steps": max_steps})})
    with claimed(Path(config.out_dir), world):
        outcome = train(config, open_stage(_PROVEN, config, world, console), world, console)
    if outcome.stopped_by:
        raise EngineError(f"the dry run was ended by {outcome.stopped_by}", why="nothing of it is kept")
    return outcome


def _sample(checkpoint: Path, device: torch.device) -> str:
    model, tokenizer = open_policy(checkpoint, device)
    return tokenizer.decode(generate(model, tokenizer.encode("ROMEO:"), max_tokens=60, temperature=0.8, top_k=20))


def _tiny_config(folder: Path, like: RunConfig, world: World) -> RunConfig:
    """Small enough for seconds on one core, with the precision, device and compilation of the real one."""
    return run_config(
        {
            "out_dir": str(folder / "run"),
            "model": {"d_model": 64, "n_layers": 2, "n_heads": 2, "max_seq_len": 64, "dropout": 0.1},
            "data": {"path": "sample", "tokenizer": {"kind": "bytes"}},
            "train": {
                "max_steps": _THEN,
                "global_batch_size": 16 * world.num_processes,
                "micro_batch_size": 8,
                "precision": like.train.precision,
                "device": like.train.device,
                "compile": like.train.compile,
            },
            "optim": {"lr": 3e-3},
            "schedule": {"warmup_steps": 2},
            "checkpoint": {"every_steps": _FIRST},
            "eval": {"every_steps": _FIRST, "num_batches": 4},
            "log": {"every_steps": 5},
        },
        source="dry run",
    )
