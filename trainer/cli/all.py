"""`python -m trainer all`: tokenizer, shards, training and evaluation, one after the other, each where it stopped.

`--then STAGE=FILE` adds a stage that begins where the one before it ended, in a folder of its own. Nothing of a step
that is done is done again: shards and tokenizer are recognised, a training goes on from its newest checkpoint, and
what was measured of that checkpoint is in `evaluation.json` of its folder.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.cli.options import add_configured, configured
from trainer.cli.train import say_outcome
from trainer.config import ACCEPTED_STAGES, ConfigError, RunConfig, load_yaml, run_config
from trainer.config.problems import Problem, did_you_mean
from trainer.console import Console
from trainer.errors import ExitCode
from trainer.loop.signals import stop_request
from trainer.quoting import pasteable, shown

if TYPE_CHECKING:
    from trainer.cli.options import Commands
    from trainer.evaluation.report import Report

RESULT = "evaluation.json"


def add(commands: Commands) -> None:
    """The command `all`."""
    command = add_configured(commands, "all", "tokenizer, prepare, pretrain and evaluate, each where it stopped")
    command.add_argument(
        "--then",
        action="append",
        default=[],
        metavar="STAGE=FILE",
        help="then this stage by its own YAML, from where the one before ended; in OUT_DIR/STAGE; may be repeated",
    )
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    first = configured(args)
    if args.then and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise _needs_one_process(args.then[0].partition("=")[0], first.out_dir)
    later = [_named(each, first) for each in args.then]
    code = _trained("pretrain", first)
    begun_from = first.out_dir
    for stage, mapping, source in later:
        if code != ExitCode.OK:
            return code
        config = _following(stage, mapping, source, first, begun_from)
        code, begun_from = _trained(stage, config), config.out_dir
    return code


def _needs_one_process(stage: str, out_dir: str) -> ConfigError:
    error = ConfigError(
        [Problem("--then", "", "stages follow each other in one process only")],
        why="the processes that torchrun started meet once, for one training",
        hint=f"torchrun ... -m trainer {stage} --config FILE model.init_from={pasteable(Path(out_dir))}",
    )
    error.on_every_rank = True
    return error


def _named(then: str, first: RunConfig) -> tuple[str, Mapping[str, Any], str]:
    """A stage, what its file says, and the file. Whatever can be wrong there is said before the first step is taken."""
    stage, _, source = then.partition("=")
    if stage not in ACCEPTED_STAGES or not source:
        said = f"`{then}` is not of the form STAGE=FILE{did_you_mean(stage, ACCEPTED_STAGES)}"
        raise ConfigError([Problem("--then", "", said)], hint="--then sft=sft.yaml")
    mapping = load_yaml(Path(source))
    if not isinstance(mapping, Mapping):
        raise ConfigError([Problem(source, "", "must be a mapping of keys to values")], hint="data: {path: ROWS}")
    known = {"model": first.model.model_dump(), "data": {"tokenizer": first.data.tokenizer.model_dump()}}
    run_config({**mapping, **{name: {**known[name], **mapping.get(name, {})} for name in known}}, source=source)
    return stage, mapping, source


def _following(stage: str, mapping: Mapping[str, Any], source: str, first: RunConfig, begun_from: str) -> RunConfig:
    model = {"init_from": begun_from, **mapping.get("model", {})}
    return run_config({"out_dir": str(Path(first.out_dir) / stage), **mapping, "model": model}, source=source)


def _trained(stage: str, config: RunConfig) -> int:
    """Train it to its end and measure it once; the exit code."""
    with stop_request():  # heard already while torch is imported
        from trainer.loop.start import run_stage  # torch: after the configuration was found good

        outcome = run_stage(stage, config)  # prepares tokenizer and shards on its way
    code = say_outcome(outcome, config)
    if code == ExitCode.OK and outcome.checkpoint and os.environ.get("RANK", "0") == "0":
        _evaluate(stage, outcome.checkpoint, Path(config.out_dir))
    return code


def _evaluate(stage: str, checkpoint: Path, out_dir: Path) -> None:
    """Measure the checkpoint on what its run held back, once."""
    console, result = Console(), out_dir / RESULT
    if _measured(result) == checkpoint.name:
        console.say(f"measured already: {shown(result)}")
        return
    report = _text_report(checkpoint, console) if stage == "pretrain" else _stage_report(checkpoint)
    unfinished = result.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"checkpoint": checkpoint.name, **report.as_dict()}, indent=1) + "\n")
    unfinished.replace(result)
    for line in [*report.lines(), f"wrote {shown(result)}"]:
        console.say(line)


def _text_report(checkpoint: Path, console: Console) -> Report:
    import torch

    from trainer.cli.evaluate import own_data
    from trainer.evaluation.held_out import held_out_loss
    from trainer.evaluation.models import OwnModel
    from trainer.evaluation.report import Report

    model = OwnModel(checkpoint, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    texts = {
        data: held_out_loss(model, data, said=lambda done: console.say_sometimes(f"evaluating  {done:,} tokens"))
        for data in own_data(str(checkpoint))
    }
    return Report(model.name, texts=texts)


def _stage_report(checkpoint: Path) -> Report:
    from trainer.evaluation.report import Report
    from trainer.loop.measuring import own_figures

    return Report(str(checkpoint), stage=own_figures(checkpoint, "auto", (), Console(aside=True)))


def _measured(result: Path) -> Any:
    """The checkpoint whose figures the file has; None where there is none, or half of one."""
    try:
        return json.loads(result.read_text(encoding="utf-8"))["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
