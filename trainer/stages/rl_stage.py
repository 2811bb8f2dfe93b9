"""What the stages that sample share: a rollout, the steps it serves, and where both stand.

A rollout is made when a step begins and none is left; it may serve several steps. Every rank has all of it, so that a
checkpoint between two of its steps holds it whole, and as many processes as one likes go on from there. Prompt `i` of
a run is one, in an order that is a pure function of the seed; so is what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from trainer.config.problems import ConfigError, Problem
from trainer.data.order import order
from trainer.errors import CheckpointError, DataError
from trainer.models.branched import bare
from trainer.quoting import shown
from trainer.rollouts.rows import RolloutRow, row_of
from trainer.stages.base import LossOutput
from trainer.stages.pair_stage import pad_id_of
from trainer.stages.preference_batch import val_places
from trainer.stages.rl_batch import PromptBatch, RlBatch, Unit, rl_batch
from trainer.stages.rl_collect import Rollout
from trainer.stages.rl_parts import RlParts
from trainer.stages.rl_reference import open_reference
from trainer.stages.rl_stats import rollout_stats

_ROWS_SEED = 0x51ED270B
"""Between the order of the prompts and that of a rollout's rows."""


class RolloutStage:
    """A stage that learns from what it sampled. Each algorithm says what a row's tokens are worth, and the loss."""

    name: str
    samples_from_policy = True
    group_size = 1
    """Completions of one prompt."""
    epochs = 1
    """How often a rollout is gone through."""
    unit: Unit = "token"
    beta = 0.0
    """Where it is not 0, rows have `reference_logps`."""

    def __init__(self, parts: RlParts) -> None:
        self.tokenizer, self.config = parts.tokenizer, parts.config
        self._parts = parts
        self._size = parts.config.rollout.completions or parts.config.train.global_batch_size
        self._rows: list[RolloutRow] = []
        self._rows_json: list[dict[str, Any]] | None = None
        self._taken = 0
        self._next_prompt = 0
        self._rollouts = 0
        self._without_signal = 0
        """Rollouts since the beginning in which there was nothing to learn; -1 once there was."""
        self._stats: dict[str, float] = {}
        self._policy: nn.Module | None = None

    # --- what an algorithm says --------------------------------------------------------------------------------------

    def learnt(self, rollout: Rollout) -> tuple[list[RolloutRow], dict[str, float]]:
        """The rows with `advantages` and whatever else `loss_of` wants, and numbers of its own to report."""
        raise NotImplementedError

    def loss_of(self, policy: nn.Module, batch: RlBatch) -> LossOutput:
        """What is minimised; dropout is off."""
        raise NotImplementedError

    def is_left_early(self) -> bool:
        """Whether what is left of a rollout should not be learnt from. Every rank calls this."""
        return False

    def own_state(self) -> dict[str, Any]:
        """What the algorithm itself has to remember; JSON."""
        return {}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""

    # --- what the engine calls ---------------------------------------------------------------------------------------

    def batches(self, policy: nn.Module) -> Iterator[RlBatch]:
        world, micro = self._parts.world, self.config.train.micro_batch_size
        self._policy = policy
        while True:
            if self._is_step_edge() and (self._taken >= self._num_taken_at_end() or self.is_left_early()):
                self._collect(bare(policy))
            first = self._taken + world.rank * micro
            self._taken += world.num_processes * micro
            yield self._batch(range(first, first + micro))

    def validation_batches(self) -> Iterator[PromptBatch]:
        """The first held-out prompts; in the last round a rank may get fewer, or none."""
        val, world = self._parts.data.val, self._parts.world
        micro, rounds = self.config.train.micro_batch_size, self.config.eval.num_batches
        for places in val_places(micro, rounds, len(val), world.rank, world.num_processes):
            yield PromptBatch([val[place] for place in places], places.start)

    def loss(self, policy: nn.Module, batch: RlBatch | PromptBatch) -> LossOutput:
        policy.eval()  # no dropout: the ratio would compare two different networks
        if isinstance(batch, PromptBatch):
            return self._validated(bare(policy), batch)
        return self.loss_of(policy, batch)

    def row_metrics(self, state: Mapping[str, Any]) -> dict[str, float]:
        """Of the newest rollout."""
        stats: dict[str, float] = state["stats"]
        return stats

    def state_dict(self) -> dict[str, Any]:
        under_way = 0 < self._taken < self._num_taken_at_end()
        if under_way and self._rows_json is None:
            self._rows_json = [row.as_json() for row in self._rows]
        return {
            "next_prompt": self._next_prompt,
            "data": self._parts.data.identity,
            "rollouts": self._rollouts,
            "without_signal": self._without_signal,
            "stats": self._stats,
            "taken": self._taken if under_way else 0,
            "rows": self._rows_json if under_way else None,
            "own": self.own_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["data"] != self._parts.data.identity:
            raise CheckpointError(
                f"the prompts are not the ones this run began with: {shown(self.config.data.path)}",
                why=f"they hash to {self._parts.data.identity[:12]}, those of the checkpoint to {state['data'][:12]}",
                hint="bring the old data back, or start a new run: `out_dir=runs/another`",
            )
        self._next_prompt, self._rollouts = state["next_prompt"], state["rollouts"]
        self._without_signal, self._stats = state["without_signal"], dict(state["stats"])
        self._rows, self._rows_json = [row_of(row) for row in state["rows"] or ()], None
        self._taken = state["taken"]
        self.load_own_state(state["own"])

    # --- a rollout ---------------------------------------------------------------------------------------------------

    def _num_taken_at_end(self) -> int:
        return len(self._rows) * self.epochs

    def _is_step_edge(self) -> bool:
        return self._taken % self.config.train.global_batch_size == 0

    def _collect(self, model: nn.Module) -> None:
        """Sample anew. Raises DataError where no function could be called, or nothing was ever to learn."""
        data, count = self._parts.data, self._size // self.group_size
        numbers = range(self._next_prompt, self._next_prompt + count)
        places = order(self.config.seed, numbers, len(data.train)).tolist()
        prompts = [(number, data.train[place]) for number, place in zip(numbers, places, strict=True)]
        repeated = [each for each in prompts for _ in range(self.group_size)]
        rollout = self._parts.collector.rollout(model, repeated, self._rollouts)
        self._report_failures(rollout)
        self._rows, own = self.learnt(rollout)
        self._rows_json, self._taken = None, 0
        self._stats = {**rollout_stats(rollout, self._parts.scorer.names), **own}
        self._next_prompt += count
        self._rollouts += 1
        self._require_signal(rollout)

    def _batch(self, numbers: Sequence[int]) -> RlBatch:
        """The rows with these numbers in the passes over the rollout, each pass in an order of its own; within a step,
        the completions of a prompt side by side."""
        per_step = self.config.train.global_batch_size
        first = numbers[0] // per_step * per_step
        whole = sorted(self._ordered(range(first, first + per_step)), key=lambda row: row.sample)
        return rl_batch(
            [whole[number - first] for number in numbers],
            unit=self.unit,
            is_dry=not any(row.is_learnt for row in whole),
            pad_id=pad_id_of(self.tokenizer),
            device=self._parts.world.device,
        )

    def _ordered(self, numbers: Sequence[int]) -> list[RolloutRow]:
        places = order(self.config.seed + self._rollouts * _ROWS_SEED, numbers, len(self._rows)).tolist()
        return [self._rows[place] for place in places]

    def _validated(self, model: nn.Module, batch: PromptBatch) -> LossOutput:
        """The loss is the mean reward, negative, so that the best checkpoint is the one with the most."""
        seed = [self.config.seed, 0xE7A1, batch.first]
        scores = self._parts.collector.rewards(model, batch.prompts, seed)
        total = torch.tensor(math.fsum(score.total or 0.0 for score in scores), device=self._parts.world.device)
        return LossOutput(-total, {"reward": total})

    def _report_failures(self, rollout: Rollout) -> None:
        for problem, count in rollout.failures.items():
            self._parts.console.say_sometimes(f"reward {problem} ({count} times in rollout {self._rollouts + 1})")
        if rollout.failures and all(each.score.total is None for each in rollout.completions):
            raise _shared(
                DataError(
                    "no completion has a reward: every call of a reward function failed",
                    why="; ".join(f"{problem}, {count} times" for problem, count in rollout.failures.items()),
                    hint="try it on a file of completions: `python -m trainer reward test FILE --reward ...`",
                )
            )

    def _require_signal(self, rollout: Rollout) -> None:
        if any(row.is_learnt for row in self._rows):
            self._without_signal = -1
        elif self._without_signal >= 0:
            self._without_signal += 1
            totals = {each.score.total for each in rollout.completions}
            seen = ", ".join(sorted(str(total) for total in totals)[:3])
            self._parts.console.say_sometimes(f"nothing to learn in rollout {self._rollouts}: the rewards are {seen}")
            if self._without_signal >= self.config.rollout.patience:
                raise _shared(
                    DataError(
                        f"there was nothing to learn in the first {self._without_signal} rollouts",
                        why=f"all rewards that are compared are equal: {seen}",
                        hint="see what it says: `python -m trainer generate`; and reward parts of what is wanted",
                    )
                )


def _shared(error: DataError) -> DataError:
    """Every rank has the same rollout, and raises the same."""
    error.on_every_rank = True
    return error


S = TypeVar("S", bound=RolloutStage)


def ready(stage: S) -> S:
    """The stage with what its numbers ask for: sizes that fit, and the reference. Raises TrainerError."""
    config, parts = stage.config, stage._parts
    size, step = config.rollout.completions or config.train.global_batch_size, config.train.global_batch_size
    for multiple_of, key in ((step, "train.global_batch_size"), (stage.group_size, f"{stage.name}.group_size")):
        if size % multiple_of:
            raise ConfigError(
                [
                    Problem(
                        "training configuration",
                        "rollout.completions",
                        f"{size} completions are no multiple of {key} {multiple_of}",
                    )
                ],
                hint=f"rollout.completions={math.lcm(step, stage.group_size)}",
            )
    if stage.beta:
        parts.collector.reference = open_reference(config, stage.name, stage.tokenizer, parts.world)
    parts.collector.rescores = parts.collector.rescores or size * stage.epochs > step
    return stage
