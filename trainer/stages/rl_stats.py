"""What a rollout was like: rewards, lengths and entropy, for metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainer.rewards.scoring import mean_values
from trainer.stages.rl_collect import Rollout


def rollout_stats(rollout: Rollout, names: Sequence[str]) -> dict[str, float]:
    """By name; `reward/NAME` is the mean of one function where it applies."""
    rewards = [each.score.total for each in rollout.completions if each.score.total is not None]
    mean = math.fsum(rewards) / max(1, len(rewards))
    sampled = sum(each.row.num_sampled for each in rollout.completions)
    count = len(rollout.completions)
    parts = mean_values(names, (each.score for each in rollout.completions))
    found = {
        "reward": mean,
        "reward_std": math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / max(1, len(rewards))),
        "without_reward": 1 - len(rewards) / count,
        "completion_tokens": sampled / count,
        "cut_share": sum(each.is_cut for each in rollout.completions) / count,
        # The mean of -log p over what was drawn is an estimate of the entropy of a token.
        "entropy": -math.fsum(float(each.row.tokens["sampled_logps"].sum()) for each in rollout.completions) / sampled,
        "reward_failures": float(sum(rollout.failures.values())),
    }
    return found | {f"reward/{name}": value for name, value in parts.items() if not math.isnan(value)}
