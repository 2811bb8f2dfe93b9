"""`python -m trainer`: the only place that reads a command line.

    python -m trainer pretrain [--config FILE] [--dry-run] [key=value ...]
    python -m trainer prepare  [--config FILE] [--out DIR] [key=value ...]
    python -m trainer generate CHECKPOINT [--prompt TEXT] [--max-tokens N] ...
    python -m trainer config

torch is imported when a command needs it, so that help is there at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from trainer.config import ACCEPTED_STAGES, ConfigError, RunConfig, load_yaml, run_config
from trainer.console import Console, show_error
from trainer.errors import ExitCode, TrainerError
from trainer.quoting import pasteable, shown

_STAGE_HELP = {"pretrain": "train a GPT from scratch on text"}

_RANK_0_SPEAKS_WITHIN_SECONDS = 10

_KEYS_HINT = "key=value    any key of the configuration; `python -m trainer config` lists all of them"

_EPILOG = """\
examples:
  python -m trainer pretrain --dry-run                        prove this installation in half a minute
  python -m trainer pretrain --config train.yaml optim.lr=3e-4
  torchrun --standalone --nproc-per-node=gpu -m trainer pretrain --config train.yaml
  python -m trainer generate runs/local --prompt 'To be'

exit codes:
  0 done   2 configuration   3 data   4 checkpoint   5 this machine   75 told to stop, saved: start again and it goes on
"""


def main(argv: Sequence[str]) -> int:
    """Run one command; its exit code, as trainer.errors documents it. No fault of a user, file or machine escapes."""
    try:
        return _run(_parsed(argv))
    except TrainerError as error:
        if not error.told and _is_mine(error):
            show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _is_mine(error: TrainerError) -> bool:
    """Whether this process should show it. What all processes have, rank 0 says; the others stay until it has."""
    shared = error.on_every_rank or isinstance(error, ConfigError)
    if not shared or os.environ.get("RANK", "0") == "0":
        return True
    # torchrun ends every process, by SIGTERM, when the first one has ended: it must not be one of the silent.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(error.exit_code))
    time.sleep(_RANK_0_SPEAKS_WITHIN_SECONDS)
    return False


def _run(args: argparse.Namespace) -> int:
    if args.command == "config":
        from trainer.config_keys import keys_text

        Console().say(keys_text())
        return ExitCode.OK
    if args.command == "prepare":
        return _prepare(args)
    if args.command == "generate":
        return _generate(args)
    return _dry_run(args) if args.dry_run else _train(args)


def _train(args: argparse.Namespace) -> int:
    config = _config(args)
    from trainer.loop.start import run_stage  # torch: after the configuration was found good

    outcome = run_stage(args.command, config)
    console = Console(os.environ.get("RANK", "0") == "0")
    if outcome.stopped_by:
        origin = shown(outcome.checkpoint) if outcome.checkpoint else "the beginning"
        console.say(f"stopped by {outcome.stopped_by} after step {outcome.step}/{config.train.max_steps}")
        console.say(f"start it again, and it goes on from {origin}")
        return ExitCode.STOPPED
    loss = f", val loss {outcome.val_loss:.4f}" if outcome.val_loss is not None else ""
    newest = shown(outcome.checkpoint) if outcome.checkpoint else "no checkpoint"
    console.say(f"done: step {outcome.step}{loss}, {newest}")
    return ExitCode.OK


def _dry_run(args: argparse.Namespace) -> int:
    config = _config(args) if args.config or args.overrides else None
    from trainer.dry_run import dry_run

    dry_run(args.command, config)
    return ExitCode.OK


def _prepare(args: argparse.Namespace) -> int:
    config = _config(args)
    from trainer.preparing import prepare_data, summary

    console = Console()
    shards = prepare_data(config.data, args.out or Path(config.out_dir) / "data", console)
    console.say(summary(shards))
    console.say(f"next: python -m trainer pretrain data.path={pasteable(shards.root)}")
    return ExitCode.OK


def _generate(args: argparse.Namespace) -> int:
    import torch

    from trainer.models.generate import generate
    from trainer.models.policies import find_checkpoint, open_policy

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = open_policy(find_checkpoint(args.checkpoint), device)
    ids = generate(
        model,
        tokenizer.encode(args.prompt) or [tokenizer.eot_id],
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
        stop_id=tokenizer.eot_id,
    )
    Console().say(args.prompt + tokenizer.decode(ids))
    return ExitCode.OK


def _config(args: argparse.Namespace) -> RunConfig:
    mapping = load_yaml(args.config) if args.config else None
    return run_config(mapping, source=str(args.config or "defaults"), overrides=args.overrides)


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    # argparse takes one run of `key=value`; here they may stand before, between and after the options.
    unknown = [word for word in rest if word.startswith("-") or not hasattr(args, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Train a GPT: one engine, every stage, from a dry run on a laptop to many GPUs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage in ACCEPTED_STAGES:
        command = _with_config(commands, stage, _STAGE_HELP[stage])
        command.add_argument(
            "--dry-run", action="store_true", help="print the plan and prove the machine with a tiny model"
        )
    prepare = _with_config(commands, "prepare", "turn text into shards of tokens")
    prepare.add_argument("--out", type=Path, metavar="DIR", help="folder of the shards (default: out_dir/data)")
    _add_generate(commands)
    commands.add_parser("config", help="list every key of the configuration", allow_abbrev=False)
    return parser


def _with_config(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text, epilog=_KEYS_HINT, allow_abbrev=False)
    command.add_argument("--config", type=Path, metavar="FILE", help="YAML; without it every key has its default")
    command.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="laid over the file")
    return command


def _add_generate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("generate", help="let a checkpoint write", allow_abbrev=False)
    command.add_argument("checkpoint", type=Path, help="a checkpoint, or a run's folder: its newest one")
    for option, kind, default, text in (
        ("--prompt", str, "\n", "how the text begins; left out, a new line"),
        ("--max-tokens", int, 200, "tokens to write (%(default)s)"),
        ("--temperature", float, 0.8, "0 takes the likeliest token (%(default)s)"),
        ("--top-k", int, 50, "choose from so many; 0 switches the limit off (%(default)s)"),
        ("--top-p", float, 1.0, "share of the probability to choose from (%(default)s)"),
        ("--seed", int, 1337, "of the random choices (%(default)s)"),
    ):
        command.add_argument(option, type=kind, default=default, help=text, metavar="TEXT" if kind is str else "N")
