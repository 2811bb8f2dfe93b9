"""`python -m trainer show`: rows of conversations as the model will read them, and what of them is learnt."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.cli.options import KEYS_HINT, add_with_examples
from trainer.config import RunConfig, apply_overrides, load_yaml, run_config
from trainer.config.hf_policy import HF
from trainer.config.initial import our_config
from trainer.console import Console
from trainer.errors import DataError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.chats.formats import Format
    from trainer.chats.template import Segment, Template
    from trainer.cli.options import Commands

_EPILOG = f"""\
{KEYS_HINT}

examples:
  python -m trainer show chats.jsonl --tokenizer runs/sft
  python -m trainer show chats.jsonl --tokenizer hf:HuggingFaceTB/SmolLM2-135M-Instruct sft.template=hub
  python -m trainer show hf:openai/gsm8k:main 'data.mapping={{prompt: question, completion: answer}}'
  python -m trainer show hh-rlhf --rows 3
"""


def add(commands: Commands) -> None:
    """The command `show`."""
    text = "show conversations as a model reads them; what it learns is marked"
    command = add_with_examples(commands, "show", text, _EPILOG)
    command.add_argument("data", help="a file, a folder, `alpaca`, `hh-rlhf`, or hf:OWNER/NAME")
    command.add_argument(
        "--tokenizer",
        metavar="FOLDER",
        help="a saved tokenizer, a checkpoint, a run's folder, or a policy's: hf:FOLDER_OR_ID (bytes)",
    )
    command.add_argument("--rows", type=int, default=5, metavar="N", help="so many (%(default)s)")
    command.add_argument("--masks", action="store_true", help="in colour even where the output is no terminal")
    command.add_argument("--config", type=Path, metavar="FILE", help="the configuration of the training they are for")
    command.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="laid over the file")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.rows < 1:
        raise DataError(f"--rows {args.rows} shows nothing", hint="python -m trainer show --help")
    config = _config(args)
    from trainer.chats.encoding import encode_segments
    from trainer.chats.formats import NotThatFormat, format_of
    from trainer.chats.hub_template import chosen_template
    from trainer.chats.painting import painted
    from trainer.chats.rows import read_rows
    from trainer.tokenizer import open_tokenizer

    tokenizer = open_tokenizer(config.data.tokenizer)
    template = chosen_template(config.sft.template, tokenizer)
    console = Console()
    for number, row in enumerate(read_rows(config.data), start=1):
        format = format_of(row)
        console.say(f"── row {number}: `{format}`, written as `{template}`; marked is what is learnt")
        try:
            for title, segments in _written(row, format, template, learn_all=config.sft.train_on == "all"):
                encoded = encode_segments(segments, tokenizer)
                console.say(f"{title}{painted(encoded, tokenizer.decode, in_colour=_in_colour(args))}")
        except NotThatFormat as problem:
            console.say(f"cannot be trained on: {problem}")
    return ExitCode.OK


def _written(
    row: Mapping[str, Any], format: Format, template: Template, *, learn_all: bool
) -> list[tuple[str, list[Segment]]]:
    """What is trained on, one text, or the two of a pair, with a title for each."""
    from trainer.chats.formats import conversation_of, preference_of
    from trainer.chats.template import answered, segments_of

    if format != "preference":
        conversation = conversation_of(row, format)
        learnt = [True] * len(conversation.messages) if learn_all else None
        return [("", segments_of(conversation, template, trained=learnt))]
    pair = preference_of(row)
    sides = (("chosen:   ", pair.chosen), ("rejected: ", pair.rejected))
    return [(title, answered(pair.prompt, side, template)) for title, side in sides]


def _config(args: argparse.Namespace) -> RunConfig:
    """As a training with these rows and this tokenizer would have it; bytes where nothing names a tokenizer."""
    mapping = load_yaml(args.config) if args.config else {}
    mapping = apply_overrides(mapping if isinstance(mapping, dict) else {}, args.overrides)
    data = {**(mapping.get("data") or {}), "path": args.data, "max_samples": args.rows}
    named = args.tokenizer or _of_a_policy(mapping.get("model"))
    if named:
        data["tokenizer"] = {"path": _folder(named)}
    data.setdefault("tokenizer", {"kind": "bytes"})
    # Of the model nothing is shown: what it is must not refuse a row.
    told = {"data": data, "sft": mapping.get("sft") or {}}
    return run_config(told, source=str(args.config or "the command line"))


def _of_a_policy(model: Any) -> str:
    """What `model.init_from` names, where that decides the tokenizer."""
    source = model.get("init_from") if isinstance(model, dict) else None
    is_ours = isinstance(source, str) and our_config(Path(source).expanduser()) is not None
    return str(source) if source and (is_ours or str(source).startswith(HF)) else ""


def _folder(named: str) -> str:
    if named.startswith(HF):
        from trainer.models.hf_folder import tokenizer_folder  # late: brings torch, for those who name such a policy

        return str(tokenizer_folder(named))
    ours = our_config(Path(named).expanduser())
    return str(ours.parent if ours else named)


def _in_colour(args: argparse.Namespace) -> bool:
    return "NO_COLOR" not in os.environ and bool(args.masks or sys.stdout.isatty())
