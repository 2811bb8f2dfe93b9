"""`python -m trainer reward test`: what reward functions say of completions that are there already."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import DataConfig, load_yaml, validated
from trainer.config.hf_policy import HF
from trainer.config.overrides import apply_overrides
from trainer.config.reinforcement import RewardConfig
from trainer.console import Console
from trainer.errors import DataError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainer.cli.options import Commands
    from trainer.rewards.scoring import Completed, Score, Scorer

_EPILOG = """\
A row of FILE has `completion`, perhaps `prompt`, and the columns that the functions look at.

examples:
  python -m trainer reward test completions.jsonl --reward exact_match
  python -m trainer reward test completions.jsonl --reward rewards.py:polite --reward length --json
  python -m trainer reward test completions.jsonl --reward model:hf:OpenAssistant/reward-model-deberta-v3-base
  python -m trainer reward test completions.jsonl --config train.yaml
  python -m trainer reward test completions.jsonl reward.functions='[{use: regex, options: {pattern: "^The"}}]'
"""


def add(commands: Commands) -> None:
    """The command `reward`."""
    text = "try reward functions: score a file of completions, as a training would"
    test = commands.add_parser(
        "reward test",  # `reward` alone is the stage; trainer.cli.program puts the two words together
        help=text,
        description=text,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    test.add_argument("file", type=Path, metavar="FILE", help=".jsonl, .json or .parquet")
    test.add_argument(
        "--reward", action="append", default=[], metavar="USE", help="a shipped name, file.py:function or model:hf:ID"
    )
    test.add_argument("--config", type=Path, metavar="FILE", help="take its section `reward`")
    test.add_argument("--json", action="store_true", help="one object a completion")
    test.add_argument("overrides", nargs="*", default=[], metavar="reward.key=value", help="laid over the file")
    test.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    config = _config(args)
    from trainer.rewards.scoring import Scorer, mean_values

    completions = _completions(args.file)
    scorer = Scorer(config)
    by_models = _judged(config, completions)
    scores = [scorer.score(each, models) for each, models in zip(completions, by_models, strict=True)]
    scorer.close()
    for number, (completed, score) in enumerate(zip(completions, scores, strict=True), start=1):
        _say(number, completed, score, scorer, as_json=args.json)
    talk = Console(aside=True)
    for problem, count in scorer.failures.items():
        talk.say(f"failed {count} times: {problem}")
    totals = [score.total for score in scores if score.total is not None]
    mean = f"{sum(totals) / len(totals):.4f}" if totals else "none"
    parts = ", ".join(f"{name} {value:.4f}" for name, value in mean_values(scorer.names, scores).items())
    talk.say(f"{len(scores)} completions, {len(totals)} with a reward, mean {mean} ({parts})")
    return ExitCode.DATA if scorer.failures else ExitCode.OK


def _config(args: argparse.Namespace) -> RewardConfig:
    mapping = load_yaml(args.config) if args.config else {}
    mapping = apply_overrides(mapping if isinstance(mapping, dict) else {}, args.overrides)
    section: dict[str, Any] = dict(mapping.get("reward") or {})
    if args.reward:
        section["functions"] = [*section.get("functions", ()), *({"use": use} for use in args.reward)]
    config = validated(RewardConfig, section, source=str(args.config or "the command line"), at="reward")
    if ours := [function.use for function in config.functions if function.model and not function.model.startswith(HF)]:
        raise DataError(
            f"`{ours[0]}` is asked in a training only",
            why="a reward model trained here reads the ids that a policy drew",
            hint="leave it out of this test; `model:hf:FOLDER` reads text",
        )
    if not config.functions:
        raise DataError("no reward function is named", hint="python -m trainer reward test FILE --reward exact_match")
    return config


def _judged(config: RewardConfig, completions: Sequence[Completed]) -> list[list[float]]:
    """For each completion, what each reward model says of it."""
    names = [function.model for function in config.functions if function.model]
    if not names:
        return [[] for _ in completions]
    import torch  # late: those who ask functions alone need neither

    from trainer.rollouts.judges import TextJudge

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    columns = [TextJudge(name, device, micro_batch_size=8).scores(completions) for name in names]
    return [list(row) for row in zip(*columns, strict=True)]


def _completions(path: Path) -> list[Completed]:
    from trainer.chats.rows import read_rows
    from trainer.rewards.scoring import Completed

    found = []
    for number, row in enumerate(read_rows(DataConfig(path=str(path))), start=1):
        if not isinstance(row.get("completion"), str):
            raise DataError(f"row {number} has no text in `completion`", hint="python -m trainer reward test --help")
        columns = {name: value for name, value in row.items() if name not in ("prompt", "completion")}
        found.append(Completed(str(row.get("prompt") or ""), row["completion"], columns))
    return found


def _say(number: int, completed: Completed, score: Score, scorer: Scorer, *, as_json: bool) -> None:
    values: Mapping[str, Any] = dict(zip(scorer.names, score.values, strict=True))
    if as_json:
        sys.stdout.write(json.dumps({"row": number, "reward": score.total, "values": values}) + "\n")
        return
    parts = _shown([score.total, *score.values])
    Console().say(f"{number:>5}  {parts}  {completed.completion[:60]!r}")


def _shown(numbers: Sequence[float | None]) -> str:
    return "  ".join("   none" if number is None else f"{number:7.4f}" for number in numbers)
