"""`python -m trainer evaluate`: loss on text, HellaSwag and lm-eval's tasks, for any model."""

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

_EPILOG = """\
examples:
  python -m trainer evaluate runs/local                             loss on its own validation text
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

    has_gpu = torch.cuda.is_available() and args.device != "cpu"
    model = open_measured(args.model, torch.device("cuda" if has_gpu else "cpu"))
    data = args.data or ([] if args.hellaswag or args.tasks else own_data(args.model))
    report = Report(
        model=model.name,
        texts={
            each: held_out_loss(model, each, text_column=args.text_column, said=_counter("tokens")) for each in data
        },
        hellaswag=_hellaswag(args, model) if args.hellaswag else (),
        tasks=harness_results(model, args.tasks.split(","), args.limit) if args.tasks else None,
    )
    lines = [json.dumps(report.as_dict(), ensure_ascii=False)] if args.json else report.lines()
    for line in lines:
        Console().say(line)
    return ExitCode.OK


def _hellaswag(args: argparse.Namespace, model: MeasuredModel) -> list[Accuracy]:
    from trainer.evaluation.hellaswag import STYLES, accuracy, read_questions

    questions = read_questions(args.hellaswag, args.limit)
    styles = [style for style in STYLES if args.style in ("both", style)]
    return [accuracy(model, questions, style, said=_counter("endings")) for style in styles]


def own_data(model: str) -> list[str]:
    """The prepared data of the run that a checkpoint belongs to: one folder, or one a source of a mixture.

    Raises DataError where it is not here.
    """
    from trainer.data.shards import is_prepared
    from trainer.models.policies import find_checkpoint

    if model.startswith("hf:") or (Path(model) / "config.json").is_file():
        raise DataError(f"nothing says on which text `{model}` is to be measured", hint="--data FILE_OR_FOLDER")
    folder = find_checkpoint(Path(model)).parents[1] / "data"
    prepared = [each for each in (folder, *sorted(folder.glob("*/"))) if is_prepared(each)]
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
