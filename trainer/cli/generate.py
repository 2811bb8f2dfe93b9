"""`python -m trainer generate`: let a checkpoint write, once, side by side, or in a conversation."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cli.options import add_with_examples
from trainer.console import Console
from trainer.errors import DataError, ExitCode

if TYPE_CHECKING:
    from trainer.chats.template import Template
    from trainer.cli.options import Commands
    from trainer.models.writer import Writer
    from trainer.tokenizer import Tokenizer

_EPILOG = """\
examples:
  python -m trainer generate runs/local --prompt 'To be'
  python -m trainer generate runs/local --prompt 'To be' --prompt 'O Romeo' --json
  python -m trainer generate runs/local --prompt 'HAMLET:' --stop 'HORATIO:' --max-tokens 2000
  python -m trainer generate runs/local --chat
"""


def add(commands: Commands) -> None:
    """The command `generate`."""
    text = "let a checkpoint write"
    command = add_with_examples(commands, "generate", text, _EPILOG)
    command.add_argument("checkpoint", type=Path, help="a checkpoint, or a run's folder: its newest one")
    command.add_argument(
        "--prompt", action="append", metavar="TEXT", help="how the text begins (a new line); several run side by side"
    )
    command.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before it; may be repeated")
    for option, kind, default, words in (
        ("--max-tokens", int, 200, "tokens to write (%(default)s)"),
        ("--temperature", float, 0.8, "0 takes the likeliest token (%(default)s)"),
        ("--top-k", int, 50, "choose from so many; 0 switches the limit off (%(default)s)"),
        ("--top-p", float, 1.0, "share of the probability to choose from (%(default)s)"),
        ("--seed", int, 1337, "of the random choices (%(default)s)"),
    ):
        command.add_argument(option, type=kind, default=default, help=words, metavar="N")
    command.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="of the weights: bf16 is half the memory (%(default)s)",
    )
    command.add_argument("--chat", action="store_true", help="talk with it, line by line, until the end of input")
    command.add_argument("--json", action="store_true", help="one JSON object a prompt, on a line of its own")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    _require_sense(args)
    import torch

    from trainer.models.policies import find_checkpoint, open_policy
    from trainer.models.sampling import Sampling
    from trainer.models.writer import Writer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = find_checkpoint(args.checkpoint)
    model, tokenizer = open_policy(found, device)
    sampling = Sampling(args.temperature, args.top_k, args.top_p, args.seed)
    model.to(torch.bfloat16 if args.precision == "bf16" else torch.float32)
    writer = Writer(model, tokenizer, sampling, max_tokens=args.max_tokens, stops=tuple(args.stop))
    if args.chat:
        from trainer.cli.chat import converse

        return converse(writer, sys.stdin, _template(found, tokenizer))
    return _write(writer, args.prompt or ["\n"], as_json=args.json)


def _template(checkpoint: Path, tokenizer: Tokenizer) -> Template:
    """The way of writing conversations that the checkpoint was taught."""
    from trainer.chats.hub_template import chosen_template
    from trainer.checkpoints.checkpoint import read_config

    sft = read_config(checkpoint).get("sft", {})
    return chosen_template(sft.get("template", "auto"), tokenizer)


def _write(writer: Writer, prompts: list[str], *, as_json: bool) -> int:
    if len(prompts) == 1 and not as_json:
        sys.stdout.write(_printable(prompts[0]))
        for piece in writer.stream(prompts[0]):
            sys.stdout.write(_printable(piece))
            sys.stdout.flush()
        sys.stdout.write("\n")
        return ExitCode.OK
    for prompt, text in zip(prompts, writer.write(prompts), strict=True):
        Console().say(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False) if as_json else prompt + text)
    return ExitCode.OK


def _printable(text: str) -> str:
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _require_sense(args: argparse.Namespace) -> None:
    """Raises DataError where a number or a word cannot be meant."""
    for name, value, good in (
        ("--max-tokens", args.max_tokens, args.max_tokens >= 1),
        ("--temperature", args.temperature, args.temperature >= 0),
        ("--top-k", args.top_k, args.top_k >= 0),
        ("--top-p", args.top_p, 0 < args.top_p <= 1),
        ("--stop", "", all(args.stop)),
        ("--seed", args.seed, args.seed >= 0),
    ):
        if not good:
            raise DataError(f"{name} `{value}` cannot be meant", hint="python -m trainer generate --help")
    if args.chat and (args.prompt or args.json):
        raise DataError("--chat takes its prompts from you, line by line", hint="leave --prompt and --json out")
