"""`python -m trainer pretrain`, and every other stage: train, or prove with a dry run that one can."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from trainer.cli.options import add_configured, configured
from trainer.config import ACCEPTED_STAGES, RunConfig
from trainer.console import Console
from trainer.errors import ExitCode
from trainer.loop.signals import stop_request
from trainer.quoting import shown

if TYPE_CHECKING:
    from trainer.cli.options import Commands
    from trainer.loop.engine import Outcome

_STAGE_HELP = {
    "pretrain": "train a GPT from scratch on text",
    "sft": "teach a GPT to answer, on conversations",
    "dpo": "teach it which of two answers is better, beside a reference",
    "orpo": "the same without a reference, while it learns the better one",
    "reward": "make a reward model: a score for answers, from pairs",
    "ppo": "let it answer, and learn from reward functions beside a value head",
    "grpo": "let it answer, and learn from which of several answers reward functions like more",
    "rgpo": "the same with one answer a prompt, compared with a running mean",
}


def add(commands: Commands) -> None:
    """One command for every stage."""
    for stage in ACCEPTED_STAGES:
        command = add_configured(commands, stage, _STAGE_HELP[stage])
        command.add_argument(
            "--dry-run", action="store_true", help="print the plan and prove the machine with a tiny model"
        )
        command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    return _dry_run(args) if args.dry_run else _train(args)


def _train(args: argparse.Namespace) -> int:
    config = configured(args)
    with stop_request():  # heard already while torch is imported
        from trainer.loop.start import run_stage  # torch: after the configuration was found good

        outcome = run_stage(args.command, config)
    return say_outcome(outcome, config)


def say_outcome(outcome: Outcome, config: RunConfig) -> int:
    """How it ended, from rank 0, and the exit code for it."""
    console = Console(os.environ.get("RANK", "0") == "0")
    if outcome.stopped_by:
        origin = shown(outcome.checkpoint) if outcome.checkpoint else "the beginning"
        console.say(f"stopped by {outcome.stopped_by} after step {outcome.step}/{config.train.max_steps}")
        console.say(f"start it again, and it goes on from {origin}")
        return ExitCode.STOPPED
    loss = f", val loss {outcome.val_loss:.4f}" if outcome.val_loss is not None else ""
    newest = shown(outcome.checkpoint) if outcome.checkpoint else "no checkpoint"
    early = f" ({outcome.ended_early})" if outcome.ended_early else ""
    console.say(f"done: step {outcome.step}{early}{loss}, {newest}")
    return ExitCode.OK


def _dry_run(args: argparse.Namespace) -> int:
    config = configured(args) if args.config or args.overrides else None
    from trainer.dry_run import dry_run

    dry_run(args.command, config)
    return ExitCode.OK
