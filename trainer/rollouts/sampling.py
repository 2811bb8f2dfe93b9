"""Completions of prompts, sampled from the policy as it is: one turn, or several with tools between them.

Always from the whole distribution at one temperature, since the loss compares with exactly that. What is drawn is a
pure function of the seed and of a prompt's place in the chunk, not of who samples it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from trainer.chats.encoding import special_id
from trainer.chats.template import Template, stop_tokens
from trainer.config.reinforcement import RolloutConfig
from trainer.models.generate import Completion, generate_batch
from trainer.models.sampling import Sampling
from trainer.rewards.scoring import Completed
from trainer.rollouts.prompts import EncodedPrompt
from trainer.rollouts.rows import RolloutRow
from trainer.rollouts.tools import Tools, continuation
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.special import END


@dataclass
class Sampled:
    """A prompt and what the policy made of it."""

    prompt: EncodedPrompt
    ids: list[int] = field(default_factory=list)
    """After the prompt."""
    is_sampled: list[bool] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    """Under the sampling temperature; 0 for what was not sampled."""
    turns: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    """The turns, and between them what tools gave."""
    is_cut: bool = False
    """Whether the room ended before the answer did."""

    def completed(self) -> Completed:
        """As reward functions see it."""
        prompt = self.prompt
        return Completed(prompt.text, "".join(self.texts), prompt.columns, tuple(self.turns), prompt.conversation)

    def row(self, sample: int) -> RolloutRow:
        """As the loss sees it, with `sampled_logps`."""
        before = len(self.prompt.ids)
        return RolloutRow(
            np.asarray([*self.prompt.ids, *self.ids], dtype=np.int32),
            np.asarray([False] * before + self.is_sampled, dtype=np.bool_),
            sample,
            tokens={"sampled_logps": np.asarray([0.0] * (before - 1) + self.logps, dtype=np.float32)},
        )


class Sampler:
    """How a run samples."""

    def __init__(self, config: RolloutConfig, tokenizer: Tokenizer, kind: Template, tools: Tools) -> None:
        self._config, self._tokenizer, self._kind, self._tools = config, tokenizer, kind, tools
        self._stop_ids = frozenset(special_id(token, tokenizer) for token in stop_tokens(kind))
        # Only what ends a turn, not what ends the text, lets tools answer; a transcript has one token for both.
        self._turn_end = tokenizer.special_ids[END] if kind == "tagged" else tokenizer.eot_id

    def sample(self, model: nn.Module, prompts: Sequence[EncodedPrompt], seed: Sequence[int]) -> list[Sampled]:
        """One completion of each prompt, side by side. `model` is the bare policy."""
        found = [Sampled(prompt) for prompt in prompts]
        living = found
        for turn in range(self._config.max_turns):
            room = max(self._room(each) for each in living)
            completions = generate_batch(
                model,
                [[*each.prompt.ids, *each.ids] for each in living],
                max_tokens=room,
                sampling=Sampling(self._config.temperature, seed=_mixed([*seed, turn])),
                stop_ids=self._stop_ids,
                with_logps=True,
            )
            for each, completion in zip(living, completions, strict=True):
                self._add(each, completion)
            is_last = turn + 1 == self._config.max_turns
            living = [] if is_last else [each for each in living if self._goes_on(each)]
            if not living:
                break
        return found

    def _room(self, sampled: Sampled) -> int:
        return self._config.max_tokens - len(sampled.ids)

    def _add(self, sampled: Sampled, completion: Completion) -> None:
        """What was drawn, as far as there is room: others in the batch may have had more."""
        room = self._room(sampled)
        ids = [*completion.ids, *([] if completion.stop_id is None else [completion.stop_id])][:room]
        sampled.ids += ids
        sampled.is_sampled += [True] * len(ids)
        sampled.logps += completion.logps[:room]
        sampled.is_cut = ids[-1] not in self._stop_ids
        text = self._tokenizer.decode(ids if sampled.is_cut else ids[:-1])
        sampled.turns.append(text)
        sampled.texts.append(text)

    def _goes_on(self, sampled: Sampled) -> bool:
        """Whether the turn called tools whose results fit; then they are added."""
        if sampled.is_cut or sampled.ids[-1] != self._turn_end:
            return False
        results = self._tools.results(sampled.turns[-1])
        told = continuation(results, self._tokenizer, self._kind) if results else []
        if not told or len(told) >= self._room(sampled):
            sampled.is_cut = bool(told)
            return False
        sampled.ids += told
        sampled.is_sampled += [False] * len(told)
        sampled.logps += [0.0] * len(told)
        sampled.texts.append(self._tokenizer.decode(told))
        return True


def _mixed(parts: Sequence[int]) -> int:
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0] >> np.uint64(1))
