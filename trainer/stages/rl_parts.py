"""What a stage that samples is made of: prompts, reward functions, tools, and how it samples."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.chats.encoding import counts_text
from trainer.chats.hub_template import chosen_template
from trainer.chats.rows import read_rows, rows_text
from trainer.config import RunConfig
from trainer.config.problems import ConfigError, Problem
from trainer.console import Console
from trainer.loop.distributed import World
from trainer.rewards.scoring import Scorer
from trainer.rollouts.judges import open_judge
from trainer.rollouts.prompts import PromptData, load_prompts
from trainer.rollouts.sampling import Sampler
from trainer.rollouts.tools import Tools
from trainer.stages.pair_stage import pad_id_of, tokenizer_of
from trainer.stages.rl_collect import Collector
from trainer.tokenizer import Tokenizer


@dataclass(frozen=True)
class RlParts:
    """What a stage that samples is made of."""

    config: RunConfig
    data: PromptData
    tokenizer: Tokenizer
    scorer: Scorer
    collector: Collector
    world: World
    console: Console


def open_parts(config: RunConfig, world: World, console: Console) -> RlParts:
    """Prompts read, reward functions loaded. Every rank calls this. Raises TrainerError."""
    if not config.reward.functions:
        raise ConfigError(
            [Problem("training configuration", "reward.functions", "is empty, and nothing else says what is good")],
            hint="reward.functions='[{use: exact_match}]'",
        )

    if config.rollout.max_tokens >= config.seq_len:
        message = f"{config.rollout.max_tokens} leave no room for a prompt in rows of {config.seq_len} tokens"
        raise ConfigError([Problem("training configuration", "rollout.max_tokens", message)])

    def parts() -> RlParts:
        tokenizer = tokenizer_of(config)
        template = chosen_template(config.sft.template, tokenizer)
        if config.rollout.tools and not isinstance(template, str):
            raise ConfigError(
                [
                    Problem(
                        "training configuration", "rollout.tools", "cannot be told in a chat template of transformers"
                    )
                ],
                hint="sft.template=transcript",
            )
        longest = config.seq_len - config.rollout.max_tokens
        data = load_prompts(
            read_rows(config.data), tokenizer, template, longest=longest, val_fraction=config.data.val_fraction
        )
        tools = Tools(config.rollout.tools, config.rollout.tool_timeout_seconds)
        scorer = Scorer(config.reward)
        sampler = Sampler(config.rollout, tokenizer, template, tools)
        collector = Collector(config, sampler, scorer, world, pad_id=pad_id_of(tokenizer))
        models = [function.model for function in config.reward.functions if function.model]
        collector.judges = [open_judge(name, tokenizer, config, world.device) for name in models]
        return RlParts(config, data, tokenizer, scorer, collector, world, console)

    found = world.on_all(parts)
    data = found.data
    console.say(
        f"prompts {rows_text(config.data)}: `{data.format}` rows, {counts_text(data.counts)}; "
        f"{len(data.train):,} to train on, {len(data.val):,} validate; rewards {', '.join(found.scorer.names)}"
    )
    return found
