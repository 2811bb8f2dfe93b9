"""`python -m trainer show`: rows of conversations as the model will read them, and what of them is learnt."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.cli.options import add_with_examples
from trainer.config import DataConfig, TokenizerConfig, validated
from trainer.config.initial import our_config
from trainer.console import Console
from trainer.errors import DataError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainer.chats.formats import Format
    from trainer.chats.template import Segment, TemplateKind
    from trainer.cli.options import Commands

_EPILOG = """\
examples:
  python -m trainer show chats.jsonl --tokenizer runs/sft
  python -m trainer show hh-rlhf --rows 3
"""


def add(commands: Commands) -> None:
    """The command `show`."""
    text = "show conversations as a model reads them; what it learns is marked"
    command = add_with_examples(commands, "show", text, _EPILOG)
    command.add_argument("data", help="a file, a folder, `alpaca`, `hh-rlhf`, or hf:OWNER/NAME")
    command.add_argument(
        "--tokenizer", metavar="FOLDER", help="a saved tokenizer, a checkpoint, or a run's folder (bytes)"
    )
    command.add_argument("--rows", type=int, default=5, metavar="N", help="so many (%(default)s)")
    command.add_argument("--masks", action="store_true", help="in colour even where the output is no terminal")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.rows < 1:
        raise DataError(f"--rows {args.rows} shows nothing", hint="python -m trainer show --help")
    from trainer.chats.encoding import encode_segments
    from trainer.chats.formats import NotThatFormat, format_of
    from trainer.chats.painting import painted
    from trainer.chats.rows import read_rows
    from trainer.chats.template import template_of
    from trainer.tokenizer import open_tokenizer

    tokenizer = open_tokenizer(_tokenizer(args.tokenizer))
    kind = template_of(tokenizer.special_ids)
    console = Console()
    for number, row in enumerate(read_rows(DataConfig(path=args.data, max_samples=args.rows)), start=1):
        format = format_of(row)
        console.say(f"── row {number}: `{format}`, written as `{kind}`; marked is what is learnt")
        try:
            for title, segments in _written(row, format, kind):
                encoded = encode_segments(segments, tokenizer)
                console.say(f"{title}{painted(encoded, tokenizer.decode, in_colour=_in_colour(args))}")
        except NotThatFormat as problem:
            console.say(f"cannot be trained on: {problem}")
    return ExitCode.OK


def _written(row: Mapping[str, Any], format: Format, kind: TemplateKind) -> list[tuple[str, list[Segment]]]:
    """What is trained on, one text, or the two of a pair, with a title for each."""
    from trainer.chats.formats import conversation_of, preference_of
    from trainer.chats.template import answered, segments_of

    if format != "preference":
        return [("", segments_of(conversation_of(row, format), kind))]
    pair = preference_of(row)
    sides = (("chosen:   ", pair.chosen), ("rejected: ", pair.rejected))
    return [(title, answered(pair.prompt, side, kind)) for title, side in sides]


def _tokenizer(folder: str | None) -> TokenizerConfig:
    if folder is None:
        return validated(TokenizerConfig, {"kind": "bytes"}, source="--tokenizer")
    ours = our_config(Path(folder).expanduser())
    return validated(TokenizerConfig, {"path": str(ours.parent if ours else folder)}, source="--tokenizer")


def _in_colour(args: argparse.Namespace) -> bool:
    return "NO_COLOR" not in os.environ and bool(args.masks or sys.stdout.isatty())
