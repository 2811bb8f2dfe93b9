"""Prove an installation before it costs anything: the plan of a run, then a tiny one of its stage from end to end.

Pretraining is proven on the text that ships with the trainer. Every other stage begins from a moment of that, and takes
real steps of its own on the user's rows, with the user's rewards, losses and adapters. Each saves, resumes, and lets
the result write; all in a temporary folder that is gone afterwards. It uses this machine's device, precision and
processes, so what works here works there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from trainer.checkpoints.out_dir import claimed
from trainer.config import RunConfig
from trainer.console import Console, duration
from trainer.dry_configs import PRETRAIN_STEPS, STAGE_STEPS, tiny_base, tiny_pretraining, tiny_stage, write_rows
from trainer.errors import EngineError
from trainer.loop.distributed import World, opened_world
from trainer.loop.engine import Outcome, train
from trainer.loop.metrics import FILE_NAME
from trainer.models.generate import generate
from trainer.models.policies import open_policy
from trainer.plan import plan_text
from trainer.sizing import training_plan
from trainer.stages import open_stage


def dry_run(stage: str, config: RunConfig | None) -> None:
    """Print the plan of `config` (of the tiny run where there is none) and do the tiny run. Raises TrainerError."""
    settings = config or RunConfig()
    with opened_world(settings.train) as world, _temporary_folder(world) as folder:
        console = Console(world.is_first)
        console.say("the plan of this configuration" if config else "the plan of a run without a configuration")
        console.say(_plan(settings, world))
        if stage == "pretrain":
            console.say("\na tiny model, from end to end")
            tiny = tiny_pretraining(folder, settings, world.num_processes)
            _prove(stage, tiny, PRETRAIN_STEPS, world, console)
            console.say("\nthis installation trains, saves, resumes and writes")
        else:
            _prove_stage(stage, folder, settings, world, console)
            console.say(f"\nthis installation trains `{stage}`, saves, resumes and writes")


def _plan(settings: RunConfig, world: World) -> str:
    if settings.model.is_known:
        return plan_text(training_plan(settings, num_gpus=world.num_processes))
    return f"how large `{settings.model.init_from}` is will be known when it is here"


@contextmanager
def _temporary_folder(world: World) -> Iterator[Path]:
    folder = world.on_first(lambda: Path(tempfile.mkdtemp(prefix="gptops-dry-run-")))
    try:
        yield folder
    finally:
        if world.is_first:
            shutil.rmtree(folder, ignore_errors=True)


def _prove_stage(stage: str, folder: Path, settings: RunConfig, world: World, console: Console) -> None:
    base = tiny_base(folder, settings, world.num_processes)
    _train("pretrain", base, base.train.max_steps, world, Console(False))
    world.on_first(lambda: write_rows(stage, folder))
    tiny = tiny_stage(stage, folder, settings, world.num_processes)
    console.say(f"\na tiny model, `{stage}` on {tiny.rows}")
    for note in tiny.notes:
        console.say(note)
    _prove(stage, tiny.config, STAGE_STEPS, world, console)


def _prove(stage: str, tiny: RunConfig, steps: tuple[int, int], world: World, console: Console) -> None:
    half, last = steps
    began = time.perf_counter()
    _train(stage, tiny, half, world, console)
    outcome = _train(stage, tiny.model_copy(update={"resume": "must"}), last, world, console)
    seconds = time.perf_counter() - began
    if world.is_first:
        console.say(_measured(tiny, seconds))
        if outcome.checkpoint:
            console.say(f"sample: {_sample(outcome.checkpoint, world.device)!r}")


def _train(stage: str, tiny: RunConfig, max_steps: int, world: World, console: Console) -> Outcome:
    config = tiny.model_copy(update={"train": tiny.train.model_copy(update={"max_steps": max_steps})})
    with claimed(Path(config.out_dir), world):
        outcome = train(config, open_stage(stage, config, world, console), world, console)
    if outcome.stopped_by:
        raise EngineError(f"the dry run was ended by {outcome.stopped_by}", why="nothing of it is kept")
    return outcome


def _measured(tiny: RunConfig, seconds: float) -> str:
    """`6 steps in 4s, 24,576 tokens, 0.41 GiB at most`, of what metrics.jsonl has."""
    rows = [json.loads(line) for line in (Path(tiny.out_dir) / FILE_NAME).read_text(encoding="utf-8").splitlines()]
    last = [row for row in rows if "tokens" in row][-1]
    return (
        f"{last['step']} steps in {duration(seconds)}, {last['tokens']:,} tokens, {last['memory_gib']:.2f} GiB at most"
    )


def _sample(checkpoint: Path, device: torch.device) -> str:
    model, tokenizer = open_policy(checkpoint, device)
    return tokenizer.decode(generate(model, tokenizer.encode("ROMEO:"), max_tokens=60, temperature=0.8, top_k=20))
