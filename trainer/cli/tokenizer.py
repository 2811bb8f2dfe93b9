"""`python -m trainer tokenizer`: train a byte-level BPE on text."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cli.options import add_configured, configured
from trainer.console import Console
from trainer.errors import ExitCode
from trainer.quoting import pasteable, shown

if TYPE_CHECKING:
    from trainer.cli.options import Commands

_EPILOG = """\
examples:
  python -m trainer tokenizer --vocab-size 32000 --data fineweb data.max_samples=200000 --out tokenizer
  python -m trainer tokenizer --vocab-size 8192 --data texts/ --out tokenizer
  python -m trainer prepare data.path=texts/ data.tokenizer.path=tokenizer
"""


def add(commands: Commands) -> None:
    """The command `tokenizer`."""
    command = add_configured(commands, "tokenizer", "train a byte-level BPE, tokens for chats and tools reserved")
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.epilog = _EPILOG
    command.add_argument("--vocab-size", type=int, metavar="N", help="ids, special tokens included (default: 8192)")
    command.add_argument("--data", metavar="SOURCE", help="a name, a dataset of the hub or a path (default: data.path)")
    command.add_argument("--out", type=Path, metavar="DIR", help="folder of the tokenizer (default: out_dir/tokenizer)")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    size = f", vocab_size: {args.vocab_size}" if args.vocab_size is not None else ""
    args.overrides = [*args.overrides, f"data.tokenizer={{kind: bpe{size}}}"]
    if args.data is not None:
        args.overrides += [f"data.path={json.dumps(args.data)}", "data.datasets={}"]
    config = configured(args)
    from trainer.data import train_tokenizer
    from trainer.preparing import progress_line

    console = Console()
    folder = args.out or Path(config.out_dir) / "tokenizer"
    tokenizer = train_tokenizer(config.data, folder, lambda progress: console.say_sometimes(progress_line(progress)))
    special = len(tokenizer.special_ids)
    console.say(
        f"tokenizer {shown(folder)}: {tokenizer.vocab_size:,} tokens, {special} of them special: "
        + " ".join(tokenizer.special_ids)
    )
    if tokenizer.vocab_size < config.data.tokenizer.vocab_size:
        console.say("the text repeats too little to learn more of them")
    console.say(f"next: python -m trainer prepare data.tokenizer.path={pasteable(folder)}")
    return ExitCode.OK
