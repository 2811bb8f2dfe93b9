"""`python -m trainer all`: tokenizer, shards, training and evaluation, one after the other, each where it stopped.

Nothing of a step that is done is done again: shards and tokenizer are recognised, the training goes on from its newest
checkpoint, and what was measured of that checkpoint is in `evaluation.json`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.cli.options import add_configured, configured
from trainer.cli.train import say_outcome
from trainer.console import Console
from trainer.errors import ExitCode
from trainer.loop.signals import stop_request
from trainer.quoting import shown

if TYPE_CHECKING:
    from trainer.cli.options import Commands

RESULT = "evaluation.json"


def add(commands: Commands) -> None:
    """The command `all`."""
    command = add_configured(commands, "all", "tokenizer, prepare, pretrain and evaluate, each where it stopped")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    config = configured(args)
    with stop_request():  # heard already while torch is imported
        from trainer.loop.start import run_stage  # torch: after the configuration was found good

        outcome = run_stage("pretrain", config)  # prepares tokenizer and shards on its way
    code = say_outcome(outcome, config)
    if code == ExitCode.OK and outcome.checkpoint and os.environ.get("RANK", "0") == "0":
        _evaluate(outcome.checkpoint, Path(config.out_dir))
    return code


def _evaluate(checkpoint: Path, out_dir: Path) -> None:
    """Measure the checkpoint on the run's own validation text, once."""
    import torch

    from trainer.cli.evaluate import own_data
    from trainer.evaluation.held_out import held_out_loss
    from trainer.evaluation.models import OwnModel
    from trainer.evaluation.report import Report

    console, result = Console(), out_dir / RESULT
    if _measured(result) == checkpoint.name:
        console.say(f"measured already: {shown(result)}")
        return
    model = OwnModel(checkpoint, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    texts = {
        data: held_out_loss(model, data, said=lambda done: console.say_sometimes(f"evaluating  {done:,} tokens"))
        for data in own_data(str(checkpoint))
    }
    report = Report(model.name, texts=texts)
    unfinished = result.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"checkpoint": checkpoint.name, **report.as_dict()}, indent=1) + "\n")
    unfinished.replace(result)
    for line in [*report.lines(), f"wrote {shown(result)}"]:
        console.say(line)


def _measured(result: Path) -> Any:
    """The checkpoint whose figures the file has; None where there is none, or half of one."""
    try:
        return json.loads(result.read_text(encoding="utf-8"))["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
