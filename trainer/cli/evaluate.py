"""`python -m trainer evaluate`: what a stage holds back, loss on text, HellaSwag and lm-eval's tasks, for any model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cli.options import add_with_examples
from trainer.console import Console
from trainer.errors import DataError, ExitCode
from trainer.quoting import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.cli.options import Commands
    from trainer.evaluation.hellaswag import Accuracy
    from trainer.evaluation.models import MeasuredModel
    from trainer.evaluation.report import Report
    from trainer.loop.measuring import StageFigures

_EPILOG = """\
examples:
  python -m trainer evaluate runs/local                             on what its own training held back
  python -m trainer evaluate runs/dpo data.path=pairs.jsonl         the same of another file
  python -m trainer evaluate runs/local --data corpus/ --json
  python -m trainer evaluate hf:HuggingFaceTB/SmolLM2-135M --hellaswag hellaswag_val.jsonl
  python -m trainer evaluate runs/local --tasks arc_easy,piqa --limit 200      needs gptops[eval]
"""


def add(commands: Commands) -> None:
    """The command `evaluate`."""
    text = "measure a model: loss on text, HellaSwag, lm-eval's tasks"
    command = add_with_examples(commands, "evaluate", text, _EPILOG)
    command.add_argument("model", help="a checkpoint, a run's folder, a folder of transformers, or hf:OWNER/NAME")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="over a checkpoint's own, such as data.path=FILE"
    )
    command.add_argument(
        "--data", action="append", metavar="PATH", help="text, or prepared shards; left out, the run's own; several"
    )
    command.add_argument("--text-column", default="text", metavar="NAME", help="of .jsonl and .parquet (%(default)s)")
    command.add_argument("--hellaswag", type=Path, metavar="FILE", help="score these HellaSwag rows (.jsonl)")
    command.add_argument("--style", choices=["both", "completion", "harness"], default="both", help="of HellaSwag")
    command.add_argument("--tasks", metavar="A,B", help="tasks of lm-eval, by name")
    command.add_argument("--limit", type=int, metavar="N", help="rows a task at most")
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    command.add_argument("--json", action="store_true", help="one JSON object on stdout")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.limit is not None and args.limit < 1:
        raise DataError(f"--limit {args.limit} leaves nothing to measure", hint="leave it out, or give 1 or more")
    import torch

    from trainer.evaluation.harness import harness_results
    from trainer.evaluation.held_out import held_out_loss
    from trainer.evaluation.models import open_measured
    from trainer.evaluation.report import Report

    own_alone = not (args.data or args.hellaswag or args.tasks)
    if own_alone and (checkpoint := posttrained(args.model)) is not None:
        return _say(Report(str(checkpoint), stage=_stage_figures(checkpoint, args)), args)
    if args.overrides:
        raise DataError(
            f"{' '.join(args.overrides)}: laid over what a post-training checkpoint is measured by, and nothing else",
            hint="text to measure on is given by `--data FILE_OR_FOLDER`",
        )
    has_gpu = torch.cuda.is_available() and args.device != "cpu"
    model = open_measured(args.model, torch.device("cuda" if has_gpu else "cpu"))
    data = own_data(args.model) if own_alone else args.data or []
    report = Report(
        model=model.name,
        texts={
            each: held_out_loss(model, each, text_column=args.text_column, said=_counter("tokens")) for each in data
        },
        hellaswag=_hellaswag(args, model) if args.hellaswag else (),
        tasks=harness_results(model, args.tasks.split(","), args.limit) if args.tasks else None,
    )
    return _say(report, args)


def _say(report: Report, args: argparse.Namespace) -> int:
    lines = [json.dumps(report.as_dict(), ensure_ascii=False)] if args.json else report.lines()
    for line in lines:
        Console().say(line)
    return ExitCode.OK


def posttrained(model: str) -> Path | None:
    """The checkpoint that `model` names, where another stage than pretraining wrote it. Raises CheckpointError."""
    from trainer.checkpoints.checkpoint import read_state
    from trainer.models.policies import find_checkpoint

    if _is_of_transformers(model):
        return None
    found = find_checkpoint(Path(model).expanduser())
    return found if read_state(found).stage != "pretrain" else None


def _stage_figures(checkpoint: Path, args: argparse.Namespace) -> StageFigures:
    from trainer.loop.measuring import own_figures

    return own_figures(checkpoint, args.device, args.overrides, Console(aside=True))


def _is_of_transformers(model: str) -> bool:
    return model.startswith("hf:") or (Path(model).expanduser() / "config.json").is_file()


def _hellaswag(args: argparse.Namespace, model: MeasuredModel) -> list[Accuracy]:
    from trainer.evaluation.hellaswag import STYLES, accuracy, read_questions

    questions = read_questions(args.hellaswag, args.limit)
    styles = [style for style in STYLES if args.style in ("both", style)]
    return [accuracy(model, questions, style, said=_counter("endings")) for style in styles]


def own_data(model: str) -> list[str]:
    """The prepared data of the run that a checkpoint belongs to: one folder, or one a source of a mixture.

    What was prepared before the run began stays where the configuration names it. Raises DataError where none is here.
    """
    from trainer.data.prepare import is_prepared_already
    from trainer.data.shards import is_prepared
    from trainer.data.sources import corpus_path
    from trainer.evaluation.models import trained_with
    from trainer.models.policies import find_checkpoint

    if _is_of_transformers(model):
        raise DataError(f"nothing says on which text `{model}` is to be measured", hint="--data FILE_OR_FOLDER")
    checkpoint = find_checkpoint(Path(model).expanduser())
    folder = checkpoint.parents[1] / "data"
    parts = [part for _, part in trained_with(checkpoint).data.parts().values()]
    named = [corpus_path(part.path) for part in parts if is_prepared_already(part)]
    own = [each for each in (folder, *sorted(folder.glob("*/"))) if is_prepared(each)]
    prepared = {each.resolve(): each for each in (*named, *own)}.values()
    if not prepared:
        raise DataError(
            f"the data of this run is not here: {shown(folder)}",
            why="a run's data stays on the machine that trained",
            hint="measure it on other text: --data FILE_OR_FOLDER",
        )
    return [str(each) for each in prepared]


def _counter(unit: str) -> Callable[[int], None]:
    """Says now and then how far it is, aside."""
    console = Console(aside=True)
    return lambda done: console.say_sometimes(f"{done:,} {unit}")
