"""One rollout: prompts asked on every rank, completions rewarded, and all of them on every rank at the end.

Prompts fall into chunks, and rank r takes every n-th chunk; what is drawn belongs to the chunk. So a rollout does not
depend on how many processes share it, and a rank may train on rows that another one sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from trainer.config import RunConfig
from trainer.loop.distributed import World
from trainer.rewards.scoring import Score, Scorer
from trainer.rollouts.judges import Judge
from trainer.rollouts.prompts import EncodedPrompt
from trainer.rollouts.rows import RolloutRow
from trainer.rollouts.sampling import Sampled, Sampler
from trainer.rollouts.scored import TokenScores, token_logps
from trainer.stages.rl_reference import Reference


@dataclass(frozen=True)
class Collected:
    """One completion with what it was worth."""

    row: RolloutRow
    score: Score
    is_cut: bool


@dataclass(frozen=True)
class Rollout:
    """All completions of all ranks, those of a prompt side by side."""

    completions: list[Collected]
    failures: Mapping[str, int] = field(default_factory=dict)
    """How often reward functions failed, by name and problem."""


class Collector:
    """How a run makes its rollouts."""

    def __init__(self, config: RunConfig, sampler: Sampler, scorer: Scorer, world: World, *, pad_id: int) -> None:
        self._config, self._sampler, self._scorer, self._world = config, sampler, scorer, world
        self._pad_id = pad_id
        self.reference: Reference | None = None
        """What `reference_logps` come from."""
        self.judges: list[Judge] = []
        """The reward models that the reward functions name, in their order."""
        self.rescores = False
        """Whether rows get `old_logps`, made by the forward of the loss, and `values` where the policy has a head."""

    def rollout(self, model: nn.Module, prompts: Sequence[tuple[int, EncodedPrompt]], number: int) -> Rollout:
        """A completion of each prompt, given with its sample number. Every rank calls this with all of them."""
        size, world = self._config.rollout.micro_batch_size, self._world
        before = self._scorer.failures.copy()
        mine = {
            first: self._chunk(model, prompts[first : first + size], [self._config.seed, number, first])
            for first in range(world.rank * size, len(prompts), world.num_processes * size)
        }
        failures = dict(self._scorer.failures - before)
        chunks: dict[int, list[Collected]] = {}
        failed: dict[str, int] = {}
        for part, theirs in world.gather((mine, failures)):
            chunks.update(part)
            failed = {name: failed.get(name, 0) + theirs.get(name, 0) for name in {**failed, **theirs}}
        return Rollout([each for first in sorted(chunks) for each in chunks[first]], failed)

    def rewards(self, model: nn.Module, prompts: Sequence[EncodedPrompt], seed: Sequence[int]) -> list[Score]:
        """What a completion of each prompt is worth, on this rank alone."""
        with self._world.autocast():
            sampled = self._sampler.sample(model, prompts, seed)
            return self._scores(sampled, [each.row(0) for each in sampled])

    def _chunk(
        self, model: nn.Module, prompts: Sequence[tuple[int, EncodedPrompt]], seed: Sequence[int]
    ) -> list[Collected]:
        with self._world.autocast():
            sampled = self._sampler.sample(model, [prompt for _, prompt in prompts], seed)
            rows = [each.row(number) for each, (number, _) in zip(sampled, prompts, strict=True)]
            rows = self._rescored(model, rows)
            scores = self._scores(sampled, rows)
        return [Collected(row, score, each.is_cut) for each, row, score in zip(sampled, rows, scores, strict=True)]

    def _rescored(self, model: nn.Module, rows: list[RolloutRow]) -> list[RolloutRow]:
        if self.rescores:
            found = self._logps(model, rows)
            rows = [row.having(old_logps=logps) for row, (logps, _) in zip(rows, found, strict=True)]
            if found[0][1] is not None:
                pairs = zip(rows, found, strict=True)
                rows = [row.having(values=values) for row, (_, values) in pairs if values is not None]
        if self.reference is not None:
            with self.reference(model) as reference:
                found = self._logps(reference, rows)
            rows = [row.having(reference_logps=logps) for row, (logps, _) in zip(rows, found, strict=True)]
        return rows

    def _logps(self, model: nn.Module, rows: Sequence[RolloutRow]) -> list[TokenScores]:
        return token_logps(
            model,
            rows,
            temperature=self._config.rollout.temperature,
            pad_id=self._pad_id,
            micro_batch_size=self._config.train.micro_batch_size,
        )

    def _scores(self, sampled: Sequence[Sampled], rows: Sequence[RolloutRow]) -> list[Score]:
        if not sampled:
            return []
        completed = [each.completed() for each in sampled]
        by_models = [judge.scores(completed, rows) for judge in self.judges]
        return [self._score(each, [scores[place] for scores in by_models]) for place, each in enumerate(sampled)]

    def _score(self, sampled: Sampled, by_models: Sequence[float]) -> Score:
        score = self._scorer.score(sampled.completed(), by_models)
        penalty = self._config.reward.cut_penalty if sampled.is_cut else 0.0
        return score if score.total is None or not penalty else Score(score.total - penalty, score.values)
